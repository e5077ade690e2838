"""Packing: every segment once, nothing over its size, the fill that is promised, the same result every time."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from padless.data import packing
from padless.data.packing import Packing, cut, pack
from padless.errors import DataError

GOLDEN = Path(__file__).parent / "golden" / "packing.json"


def log_normal_documents() -> np.ndarray:
    generator = np.random.default_rng(0)
    return np.maximum(1, np.exp(generator.normal(np.log(500), 1.1, 100_000))).astype(np.int64)


def chunked(documents: np.ndarray, max_seq_len: int) -> np.ndarray:
    return cut(documents, max_seq_len).lengths_N


def chunks_of(content_tokens: int, max_seq_len: int) -> list[int]:
    return (cut(np.array([content_tokens]), max_seq_len).lengths_N - 2).tolist()


def fill(lengths: np.ndarray, packing: Packing, block_tokens: int) -> float:
    return float(lengths.sum() / (packing.num_blocks * block_tokens))


@settings(deadline=None)
@given(
    st.integers(1, 300).flatmap(
        lambda block_tokens: st.tuples(
            st.just(block_tokens), st.lists(st.integers(1, block_tokens), min_size=0, max_size=200)
        )
    )
)
def test_every_segment_is_in_exactly_one_block_and_no_block_is_over_its_size(case):
    block_tokens, lengths = case
    packing = pack(np.array(lengths, np.int64), block_tokens)
    assert sorted(packing.order_N.tolist()) == list(range(len(lengths)))
    sums = [sum(lengths[i] for i in block) for block in packing.blocks()]
    assert all(0 < total <= block_tokens for total in sums)
    assert sum(sums) == sum(lengths)
    assert packing.num_blocks == len(sums)


def best_fit_one_by_one(lengths: list[int], block_tokens: int) -> list[int]:
    """Best fit decreasing as the textbook has it, a segment at a time; returns the free tokens of the blocks."""
    free: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [(space, index) for index, space in enumerate(free) if space >= length]
        if fitting:
            free[min(fitting)[1]] -= length
        else:
            free.append(block_tokens - length)
    return sorted(free)


@settings(deadline=None)
@given(st.lists(st.integers(1, 64), min_size=1, max_size=150))
def test_packing_by_counts_is_best_fit_decreasing(lengths):
    packing = pack(np.array(lengths), 64)
    free = sorted(64 - sum(lengths[i] for i in block) for block in packing.blocks())
    assert free == best_fit_one_by_one(lengths, 64)


@given(st.integers(0, 5000), st.integers(3, 600))
def test_chunks_hold_every_token_and_none_is_over_the_cap(content_tokens, max_seq_len):
    chunks = chunks_of(content_tokens, max_seq_len)
    assert sum(chunks) == content_tokens
    assert all(1 <= chunk <= max_seq_len - 2 for chunk in chunks)
    if len(chunks) > 1:
        assert min(chunks) >= max(1, (max_seq_len - 2) // 8)
    assert len(chunks) == -(-content_tokens // (max_seq_len - 2)), "no more chunks than it takes"


def test_chunks_at_the_borders_of_the_cap():
    assert chunks_of(0, 10) == []
    assert chunks_of(8, 10) == [8]
    assert chunks_of(9, 10) == [8, 1]
    assert chunks_of(81, 82) == [71, 10]
    assert chunks_of(80 + 10, 82) == [80, 10]


@given(st.lists(st.integers(0, 200), max_size=30), st.integers(3, 40))
def test_segments_of_a_document_are_its_content_in_order(documents, max_seq_len):
    segments = cut(np.array(documents, np.int64), max_seq_len)
    assert np.all(np.diff(segments.document_N) >= 0)
    for document, content_tokens in enumerate(documents):
        own_N = segments.document_N == document
        ends = segments.start_N[own_N] + segments.lengths_N[own_N] - 2
        assert [0, *ends.tolist()] == [*segments.start_N[own_N].tolist(), content_tokens]


def splitmix64(number: int) -> int:
    mixed = (number + 0x9E3779B97F4A7C15) % 2**64
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
    return mixed ^ (mixed >> 31)


@pytest.mark.parametrize(("first", "count"), [(0, 0), (0, 1), (7, 5000), (100_000, 70_000)])
def test_mixed_order_is_that_of_the_fixed_hash(first, count):
    expected = sorted(range(count), key=lambda number: splitmix64(first + number))
    assert packing._mixed_order(count, first).tolist() == expected


@given(st.permutations(range(60)))
def test_mixed_order_is_exact_where_hashes_differ_in_their_last_bits_only(last_bits):
    hashes = np.array(last_bits, np.uint64) + np.uint64(1 << 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_mix", lambda _: hashes)
        assert packing._mixed_order(60).tolist() == np.argsort(hashes).tolist()


@pytest.mark.parametrize("max_seq_len", [1024, 8192])
def test_fill_is_99_9_percent_on_100_000_log_normal_documents(max_seq_len):
    lengths = chunked(log_normal_documents(), max_seq_len)
    start = time.process_time()
    packing = pack(lengths, 8192)
    cpu_s = time.process_time() - start
    assert fill(lengths, packing, 8192) >= 0.999
    assert cpu_s < 5, "about 0.2 s on an idle core; quadratic packing takes minutes"


@pytest.mark.parametrize("max_seq_len", [512, 1024])
def test_long_documents_alone_still_fill_blocks_that_hold_one_full_segment(max_seq_len):
    documents = np.random.default_rng(1).integers(2_000, 40_000, 2_000)
    lengths = chunked(documents, max_seq_len)
    assert fill(lengths, pack(lengths, max_seq_len), max_seq_len) >= 0.995


def test_full_chunks_of_one_document_do_not_share_a_block():
    lengths = np.full(4096, 1024)  # 512 documents of 8 full chunks each
    document_N = np.arange(4096) // 8
    packing = pack(lengths, 8192)
    assert packing.num_blocks == 512
    assert np.mean([len(set(document_N[block])) for block in packing.blocks()]) > 7.5


def test_blocks_do_not_come_longest_first():
    lengths = chunked(log_normal_documents()[:20_000], 1024)
    longest = np.array([lengths[block].max() for block in pack(lengths, 1024).blocks()])
    first, second = np.split(longest[: len(longest) // 2 * 2], 2)
    assert abs(first.mean() - second.mean()) < 0.02 * longest.mean()


def test_packing_has_not_changed():
    golden = json.loads(GOLDEN.read_text())
    packing = pack(np.array(golden["lengths"]), golden["block_tokens"])
    assert [block.tolist() for block in packing.blocks()] == golden["blocks"]


def test_no_segments_make_no_blocks():
    assert pack(np.empty(0, np.int64), 8).num_blocks == 0


@pytest.mark.parametrize("lengths", [[0, 3], [9]])
def test_a_segment_that_fits_no_block_is_refused(lengths):
    with pytest.raises(DataError, match=r"segment lengths go from \d+ to \d+ tokens, block_tokens=8"):
        pack(np.array(lengths), 8)
    assert pack(np.array([1, 8]), 8).num_blocks == 2


def test_a_cap_without_room_for_content_is_refused():
    assert chunks_of(2, 3) == [1, 1]
    with pytest.raises(DataError, match=r"max_seq_len=2 leaves no room"):
        chunks_of(1, 2)
