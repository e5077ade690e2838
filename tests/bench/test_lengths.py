"""Both sides of a bench see the same documents; blocks and padded batches are what their users have."""

import numpy as np
import pytest

from padless.bench.lengths import CASES, CLS, FIRST_WORD, MASK, SEP, draw_workload, segment_lengths


def workload(case, num_batches=6, tokens=8192, seed=0, **more):
    return draw_workload(CASES[case], num_batches, tokens, 512, seed, **more)


@pytest.mark.parametrize("case", CASES)
def test_each_document_is_once_in_a_block_and_once_in_a_padded_batch(case):
    drawn = workload(case)
    everyone = list(range(len(drawn.documents)))
    assert [number for block in drawn.packed for number in block] == everyone
    assert sorted(number for batch in drawn.padded for part in batch for number in part) == everyone
    assert len(drawn.packed) == len(drawn.padded) == 6
    assert all(part for batch in drawn.padded for part in batch)


@pytest.mark.parametrize("case", CASES)
def test_blocks_are_full_and_no_document_is_over_the_cap(case):
    drawn = workload(case, 20)
    fills = [sum(drawn.lengths(block)) / 8192 for block in drawn.packed]
    assert max(fills) <= 1
    assert min(fills) >= 0.9
    assert max(len(document.tokens_T) for document in drawn.documents) <= CASES[case].max_seq_len


def test_the_same_arguments_give_the_same_documents_and_another_seed_others():
    first, second, other = workload("web"), workload("web"), workload("web", seed=1)
    for one, same in zip(first.documents, second.documents, strict=True):
        assert np.array_equal(one.input_ids_T, same.input_ids_T)
        assert np.array_equal(one.positions_M, same.positions_M)
    assert first.padded == second.padded
    assert [len(each.tokens_T) for each in first.documents] != [len(each.tokens_T) for each in other.documents]


def test_documents_are_masked_as_in_training():
    drawn = workload("web", 20)
    masked = sum(len(each.positions_M) for each in drawn.documents)
    assert masked / sum(len(each.tokens_T) for each in drawn.documents) == pytest.approx(0.3, abs=0.01)
    becomes_mask = sum(int((each.input_ids_T[each.positions_M] == MASK).sum()) for each in drawn.documents)
    assert becomes_mask / masked == pytest.approx(0.8, abs=0.02)
    for each in drawn.documents:
        assert (each.tokens_T[0], each.tokens_T[-1]) == (CLS, SEP)
        assert each.tokens_T[1:-1].min() >= FIRST_WORD
        assert not {0, len(each.tokens_T) - 1} & set(each.positions_M.tolist())


def test_lengths_are_those_the_case_names():
    def lengths(case):
        return segment_lengths(CASES[case], 2_000_000, np.random.default_rng(0))

    assert set(lengths("full").tolist()) == {1024}
    assert lengths("short").mean() == pytest.approx(62, abs=2)
    assert lengths("long").mean() == pytest.approx(3_000, rel=0.05)
    assert (lengths("web") == 1024).mean() == pytest.approx(0.2, abs=0.03), "long pages, cut"
    assert lengths("variable-8192").mean() == pytest.approx(4_096, rel=0.05)


def test_padding_is_counted_part_by_part():
    assert workload("full").padding_factor() == 1
    assert 1.6 < workload("web", 40).padding_factor() < 2.2
    assert workload("short", rows=8).padding_factor() < workload("short", rows=128).padding_factor()


def test_a_peer_computes_at_most_its_rows_at_once():
    drawn = workload("short", rows=16)
    assert max(len(part) for batch in drawn.padded for part in batch) == 16
    assert min(len(batch) for batch in drawn.padded) > 4


def test_a_part_without_a_document_takes_one_from_the_fullest():
    drawn = draw_workload(CASES["long"], 12, 8192, 512, 3)
    assert min(len(batch) for batch in drawn.padded) == 1


def test_documents_longer_than_a_batch_are_as_long_as_it():
    drawn = workload("fixed-8192", 2, tokens=2048)
    assert {len(each.tokens_T) for each in drawn.documents} == {2048}
    assert drawn.max_seq_len == 2048
