import zlib

import numpy as np
import pytest

from padless.data.masking import MaskingRule, mask_tokens, training_generator, validation_generator

VOCAB, MASK = 1000, 4
RULE = MaskingRule.build(VOCAB, MASK, [0, 1, 2, 3, 4], mask_share=0.8, random_share=0.1)


def tokens(count=200_000, seed=0):
    return np.random.default_rng(seed).integers(0, VOCAB, count).astype(np.uint16)


def masked(key=(17, 0, 5, "general", 3, 0), rate=0.3, rule=RULE):
    original = tokens()
    return original, *mask_tokens(original, rate, rule, training_generator(*key))


def test_specials_are_never_masked_and_never_drawn():
    original, input_ids, positions = masked()
    assert (original[positions] > 4).all()
    changed = positions[input_ids[positions] != original[positions]]
    drawn = input_ids[changed][input_ids[changed] != MASK]
    assert (drawn > 4).all()
    assert drawn.max() > 900


def test_only_chosen_positions_change():
    original, input_ids, positions = masked()
    untouched = np.setdiff1d(np.arange(len(original)), positions)
    assert (input_ids[untouched] == original[untouched]).all()
    assert (np.diff(positions) > 0).all()


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.3])
def test_shares_are_rate_and_80_10_10(rate):
    original, input_ids, positions = masked(rate=rate)
    maskable = (original > 4).sum()
    assert len(positions) / maskable == pytest.approx(rate, abs=0.005)
    at = input_ids[positions]
    assert (at == MASK).mean() == pytest.approx(0.8, abs=0.02)
    assert (at == original[positions]).mean() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("place", range(6))
def test_every_part_of_the_key_changes_the_mask(place):
    key = [17, 0, 5, "general", 3, 0]
    first = masked(tuple(key))[2]
    again = masked(tuple(key))[2]
    key[place] = "code" if place == 3 else key[place] + 1
    other = masked(tuple(key))[2]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_validation_mask_is_fixed_and_not_a_training_mask():
    block = tokens(5000)
    first = mask_tokens(block, 0.15, RULE, validation_generator(17, "general", 3))[1]
    again = mask_tokens(block, 0.15, RULE, validation_generator(17, "general", 3))[1]
    train = mask_tokens(block, 0.15, RULE, training_generator(17, 0, 0, "general", 3, 0))[1]
    assert np.array_equal(first, again)
    assert not np.array_equal(first, train)


@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.8, 0.1), (0.8, 0.2), (0.0, 1.0), (0.5, 0.0)])
def test_what_is_neither_masked_nor_random_stays(shares):
    rule = MaskingRule.build(VOCAB, MASK, [0, 1, 2, 3, 4], *shares)
    original, input_ids, positions = masked(rule=rule)
    at, kept = input_ids[positions], 1.0 - sum(shares)
    is_mask, is_same = at == MASK, at == original[positions]
    # A random token is the same by chance once in a thousand; 60,000 positions.
    assert is_mask.mean() == pytest.approx(shares[0], abs=0.01)
    assert is_same.mean() == pytest.approx(kept, abs=0.01)
    assert (~is_mask & ~is_same).mean() == pytest.approx(shares[1], abs=0.01)
    if shares[0] in (0.0, 1.0):
        assert is_mask.all() == bool(shares[0])
        assert is_mask.any() == bool(shares[0])
    if not shares[1]:
        assert (is_mask | is_same).all()


@pytest.mark.parametrize("seed", [0, 17, 2**32 - 1, 2**32, 2**63])
@pytest.mark.parametrize("block", [0, 5, 2**32 + 1])
def test_generators_are_numpy_s_own_of_the_same_key(seed, block):
    key = [0, seed, 2, 5_000_000, zlib.crc32(b"general"), block, 1]
    training = training_generator(seed, 2, 5_000_000, "general", block, 1)
    assert training.bit_generator.state == np.random.default_rng(key).bit_generator.state
    validation = validation_generator(seed, "general", block)
    expected = np.random.default_rng([1, seed, zlib.crc32(b"general"), block])
    assert validation.bit_generator.state == expected.bit_generator.state


def test_masks_have_not_changed():
    original, input_ids, positions = masked()
    drawn = input_ids[positions]
    assert len(positions) == 59_657
    assert zlib.crc32(positions.astype("<i8").tobytes()) == 1_751_077_352
    assert zlib.crc32(drawn.astype("<i8").tobytes()) == 2_860_033_097
    assert np.array_equal(np.delete(input_ids, positions), np.delete(original, positions))
