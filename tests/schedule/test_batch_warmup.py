"""The ramp: published levels, borders, and that its functions are each other's inverses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from padless.config.batch_sizes import size_deviations
from padless.config.schema import BatchConfig, BatchWarmupConfig
from padless.errors import ConfigError
from padless.schedule.batch_warmup import (
    batch_blocks_at,
    batch_levels,
    blocks_used_by_step,
    step_at_blocks,
    steps_to_cover,
)


def batch(blocks, quantum, warmup=None, rounding="exact"):
    return BatchConfig(blocks, quantum, rounding, BatchWarmupConfig(*warmup) if warmup else None)


BASE = batch(576, 96, (96, 50 * 10**9, 5, "steps"))
LARGE = batch(616, 56, (56, 10 * 10**9, 10, "steps"))


def test_published_base_ramp_has_five_levels_of_4239_steps():
    levels = batch_levels(BASE, 8192)
    assert [size for _, size in levels] == [96, 192, 288, 384, 480, 576]
    starts = [start for start, _ in levels]
    steps = [(end - start) // size for (start, size), end in zip(levels[:-1], starts[1:], strict=True)]
    assert steps == [4239] * 5  # 50B / (8192 * 1440) = 4238.6


def test_published_large_ramp_has_ten_levels_of_396_steps():
    levels = batch_levels(LARGE, 8192)
    assert [size for _, size in levels] == list(range(56, 617, 56))
    assert levels[1][0] == 396 * 56
    assert abs(levels[-1][0] * 8192 - 10 * 10**9) <= 3080 * 8192 / 2


def test_equal_tokens_gives_each_level_the_same_tokens_to_the_nearest_step():
    levels = batch_levels(batch(8, 2, (2, 12_000, 3, "tokens")), 100)
    # 4000 tokens a level: 20 steps of 200, 10 of 400, 6.67 -> 7 of 600
    assert levels == ((0, 2), (40, 4), (80, 6), (122, 8))


def test_a_level_has_at_least_one_step():
    assert batch_levels(batch(4, 2, (2, 1, 1, "steps")), 512) == ((0, 2), (2, 4))


def test_without_warmup_there_is_one_level():
    assert batch_levels(batch(4, 2), 512) == ((0, 4),)


def test_batch_changes_exactly_at_the_border():
    levels = ((0, 2), (10, 4), (30, 6))
    found = [batch_blocks_at(levels, blocks) for blocks in (0, 9, 10, 29, 30, 10**15)]
    assert found == [2, 2, 4, 4, 6, 6]
    assert [blocks_used_by_step(levels, step) for step in (0, 5, 6, 10, 11, 12)] == [0, 10, 14, 30, 36, 42]
    assert [step_at_blocks(levels, blocks) for blocks in (0, 1, 2, 10, 13, 14, 30, 36)] == [0, 0, 1, 5, 5, 6, 10, 11]


def test_a_size_off_the_quantum_is_refused_with_what_divides():
    with pytest.raises(ConfigError, match=r"616 is not a multiple of quantum_blocks=64") as caught:
        batch_levels(batch(616, 64), 8192)
    assert "1, 2, 4, 7, 8, 11, 14, 22, 28, 44, 56, 77, 88, 154, 308, 616" in caught.value.remedy


def test_levels_that_do_not_fit_the_quantum_are_refused_with_levels_that_do():
    with pytest.raises(ConfigError, match="not a multiple of quantum_blocks=96") as caught:
        batch_levels(batch(576, 96, (96, 10**9, 7, "steps")), 8192)
    assert "warmup.levels that fit the quantum: 1, 5" in caught.value.remedy
    with pytest.raises(ConfigError) as caught:
        batch_levels(batch(8, 4, (3, 10**9, 3, "steps")), 8192)
    assert "choose batch.blocks - warmup.from_blocks (now 5)" in caught.value.remedy


def test_nearest_rounds_and_reports_the_deviation():
    near = batch(616, 64, None, "nearest")
    assert batch_levels(near, 8192) == ((0, 640),)
    assert size_deviations(near) == (("616", 640),)
    assert size_deviations(BASE) == ()


ramps = st.builds(
    lambda quantum, first, spacing, levels, tokens, equal: batch(
        (first + spacing * levels) * quantum, quantum, (first * quantum, tokens, levels, equal)
    ),
    st.integers(1, 100),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 12),
    st.integers(1, 10**11),
    st.sampled_from(["steps", "tokens"]),
)


@given(ramps, st.integers(8, 8192), st.integers(0, 10**6))
def test_blocks_used_and_step_are_inverse(ramp, block_tokens, step):
    levels = batch_levels(ramp, block_tokens)
    used = blocks_used_by_step(levels, step)
    size = batch_blocks_at(levels, used)
    assert step_at_blocks(levels, used) == step
    assert blocks_used_by_step(levels, step + 1) == used + size
    assert step_at_blocks(levels, used + size - 1) == step
    assert steps_to_cover(levels, used) == step
    assert steps_to_cover(levels, used + 1) == step + 1
    assert size % ramp.quantum_blocks == 0


@given(ramps, st.integers(8, 8192))
def test_ramp_length_is_as_near_to_its_tokens_as_whole_steps_allow(ramp, block_tokens):
    levels = batch_levels(ramp, block_tokens)
    one_round = sum(size for _, size in levels[:-1]) * block_tokens
    ramp_tokens = levels[-1][0] * block_tokens
    if ramp.warmup.equal == "steps" and ramp.warmup.tokens >= one_round:
        assert abs(ramp_tokens - ramp.warmup.tokens) <= one_round / 2
