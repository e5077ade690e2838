from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_streams import BLOCK_TOKENS, write_source, write_split

from padless.data.collate import Block
from padless.data.loader import BatchRules, StepLoader, leave_out
from padless.data.masking import MaskingRule
from padless.data.mds import BlockReader, StreamSource, ValidationBlocks, in_turn, pass_blocks
from padless.data.remote import fetch_index, fetch_split
from padless.schedule.skipped import SkippedRange

RULES = BatchRules(BLOCK_TOKENS, 16, 3, MaskingRule.build(100, 4, [0, 1, 2, 3, 4], 0.8, 0.1), seed=17, phase_index=0)


@pytest.fixture
def sources(tmp_path):
    return [write_source(tmp_path / "a", 37, 0.7), write_source(tmp_path / "b", 5, 0.3, seed=1)]


def read(sources, position, count, quantum=4, microbatch=1, workers=0):
    reader = BlockReader(
        sources,
        quantum_blocks=quantum,
        microbatch_blocks=microbatch,
        num_canonical_nodes=2,
        shuffle_seed=3,
        num_workers=workers,
    )
    out = []
    for blocks in reader.microbatches(position):
        out += [(block.stream, block.index) for block in blocks]
        if len(out) >= count:
            return out[:count]
    raise AssertionError("the reader ended")


@pytest.mark.parametrize(("blocks", "quantum", "expected"), [(42, 4, 40), (40, 4, 40), (3, 4, 4), (1, 1, 1)])
def test_a_pass_is_a_multiple_of_the_quantum(blocks, quantum, expected):
    assert pass_blocks(blocks, quantum) == expected


def test_any_position_goes_on_with_the_same_blocks_over_passes(sources):
    whole = read(sources, 0, 120)
    for position in (1, 39, 40, 77):
        assert read(sources, position, 20) == whole[position : position + 20]


@pytest.mark.parametrize(("workers", "quantum", "microbatch"), [(2, 4, 1), (3, 4, 2), (2, 20, 20)])
def test_workers_do_not_change_the_blocks(sources, workers, quantum, microbatch):
    alone = read(sources, 40, 120, quantum, microbatch)
    assert read(sources, 40, 120, quantum, microbatch, workers) == alone


@given(st.integers(0, 40), st.integers(1, 4), st.integers(1, 3), st.integers(1, 4))
def test_pieces_of_several_senders_come_in_turn(num_pieces, senders, size, pieces_a_parcel):
    pieces = [[number] * size for number in range(num_pieces)]
    own = [pieces[sender::senders] for sender in range(senders)]  # what each sender has
    parcels = [
        [item for piece in each[begin : begin + pieces_a_parcel] for item in piece]
        for begin in range(0, num_pieces, pieces_a_parcel)
        for each in own
        if begin < len(each)
    ]
    assert list(in_turn(iter(parcels), senders, size)) == pieces


def test_the_first_piece_does_not_wait_for_other_senders():
    def parcels():
        yield [1, 2]
        raise AssertionError("asked for the second sender")

    assert next(in_turn(parcels(), 2, 1)) == [1]


def test_microbatch_size_does_not_change_the_blocks_of_a_quantum(sources):
    ones, twos = read(sources, 8, 64), read(sources, 8, 64, microbatch=2)
    for begin in range(0, 64, 4):
        assert sorted(ones[begin : begin + 4]) == sorted(twos[begin : begin + 4])


def test_passes_are_shuffled_anew_and_mixed_in_proportion(sources):
    first, second = read(sources, 0, 40), read(sources, 40, 40)
    assert first != second
    assert sum(stream == "a" for stream, _ in first) == 28


def test_data_smaller_than_a_batch_repeats(tmp_path):
    blocks = read([write_source(tmp_path / "b", 5)], 0, 16, quantum=8)
    assert len(set(blocks)) == 5


def test_a_remote_is_read_through_a_local_cache(tmp_path):
    original = write_split(tmp_path / "remote", 12)
    cached = replace(original, folder=tmp_path / "cache")
    fetch_index(str(original.folder), cached)
    blocks = read([StreamSource(cached, str(original.folder), 1.0)], 0, 12)
    assert sorted(index for _, index in blocks) == list(range(12))
    assert any((tmp_path / "cache").glob("*.mds"))
    validation = replace(original, folder=tmp_path / "val")
    fetch_split(str(original.folder), validation)
    assert len(ValidationBlocks(validation)) == 12


def test_validation_blocks_are_those_on_disk(tmp_path):
    split = ValidationBlocks(write_split(tmp_path / "a", 37))
    assert [split[index].index for index in range(37)] == list(range(37))


def blocks_of(indices):
    tokens = np.arange(5, 25).astype(np.uint16)
    return [Block("a", index, tokens, np.array([20], np.int32)) for index in indices]


def test_a_repeated_block_in_a_step_gets_another_mask():
    loader = StepLoader(iter([blocks_of([1]), blocks_of([1])]), RULES)
    loader.begin_step(0, 2, 0.5)
    first, second = next(iter(loader))
    assert first.masked_positions_M.tolist() != second.masked_positions_M.tolist()
    assert loader.last_step.block_ids == [("a", 1), ("a", 1)]


def test_masks_are_the_same_for_one_rank_and_two():
    alone = StepLoader(iter([blocks_of([1]), blocks_of([1])]), RULES)
    alone.begin_step(7, 2, 0.5)
    one_rank = next(iter(alone))
    shares = [([("a", 1)], 20, None), ([("a", 1)], 20, None)]
    two_ranks = []
    for rank in range(2):
        loader = StepLoader(iter([blocks_of([1])]), RULES, rank, lambda _share: shares)
        loader.begin_step(7, 1, 0.5)
        two_ranks += next(iter(loader))
    assert [b.input_ids_T.tolist() for b in one_rank] == [b.input_ids_T.tolist() for b in two_ranks]
    assert loader.last_step.digest == alone.last_step.digest
    assert loader.last_step.real_tokens == 40


def test_a_step_has_to_be_announced():
    loader = StepLoader(iter([blocks_of([1])]), RULES)
    with pytest.raises(RuntimeError, match="begin_step was not called"):
        next(iter(loader))


@pytest.mark.parametrize("ranks", [1, 2])
def test_blocks_left_out_are_not_read_and_the_rest_moves_up(ranks):
    ranges = [SkippedRange("short", 8, 4), SkippedRange("short", 16, 8)]
    expected = [number for number in range(4, 40) if number not in (8, 9, 10, 11, *range(16, 24))]
    seen = []
    for rank in range(ranks):
        own = [[number] for number in range(4 + rank, 40, ranks)]  # each rank has every so-many-th block of a step
        seen += [number for microbatch in leave_out(iter(own), 4, ranks, ranges) for number in microbatch]
    assert sorted(seen) == expected


def test_a_wish_to_stop_of_any_rank_reaches_all_in_the_same_step():
    block = [Block("a", 0, np.arange(5, 15, dtype=np.uint16), np.array([10], np.int32))]
    loader = StepLoader(iter([block] * 3), RULES, 0, lambda share: [share, ([("a", 1)], 3, "SIGUSR1")])
    loader.begin_step(0, 1, 0.3)
    next(iter(loader))
    assert loader.last_step.stop == "SIGUSR1"
    assert loader.last_step.block_ids == [("a", 0), ("a", 1)]
    alone = StepLoader(iter([block] * 3), RULES, wish_to_stop=lambda: "SIGTERM")
    alone.begin_step(0, 1, 0.3)
    next(iter(alone))
    assert alone.last_step.stop == "SIGTERM"


def test_closing_the_loader_ends_what_it_reads_from():
    ended = []

    def endless():
        try:
            while True:
                yield [Block("a", 0, np.arange(5, 15, dtype=np.uint16), np.array([10], np.int32))]
        finally:
            ended.append(True)

    loader = StepLoader(leave_out(endless(), 0, 1, ()), RULES)
    loader.begin_step(0, 1, 0.3)
    next(iter(loader))
    loader.close()
    assert ended == [True]
