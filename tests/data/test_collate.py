import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from padless.data.batch import IGNORED
from padless.data.collate import Block, MaskedBlock, collate, filler_lengths, masked_rows

PAD = 3


def masked_block(lengths, positions=(0,), index=0):
    tokens = np.arange(10, 10 + sum(lengths)).astype(np.uint16)
    block = Block("general", index, tokens, np.array(lengths, np.int32))
    return MaskedBlock(block, tokens.astype(np.int64), np.array(positions, np.int64))


@given(st.integers(0, 5000), st.integers(1, 700))
def test_filler_takes_exactly_what_is_free_within_the_cap(free, cap):
    lengths = filler_lengths(free, cap)
    assert sum(lengths) == free
    assert all(0 < length <= cap for length in lengths)


def test_every_block_takes_its_tokens_and_borders_are_kept():
    batch = collate([masked_block([5, 7]), masked_block([16], index=1)], 16, 8, PAD)
    assert batch.segment_lengths == (5, 7, 4, 16)
    assert batch.cu_seqlens_S1.tolist() == [0, 5, 12, 16, 32]
    assert batch.input_ids_T.shape == (32,)
    assert batch.input_ids_T[12:16].tolist() == [PAD] * 4
    assert (batch.num_real_tokens, batch.max_seqlen) == (28, 16)


def test_labels_are_the_original_ids_at_the_masked_positions():
    masked = masked_block([4, 4], positions=(1, 6))
    masked.input_ids_T[[1, 6]] = 4
    batch = collate([masked_block([8]), masked], 10, 10, PAD)
    assert batch.masked_positions_M.tolist() == [0, 11, 16]
    assert batch.labels_M.tolist() == [10, 11, 16]
    assert batch.input_ids_T[[11, 16]].tolist() == [4, 4]


def test_filler_carries_no_loss_and_a_block_without_masks_is_whole():
    batch = collate([masked_block([3], positions=())], 8, 4, PAD)
    assert batch.num_masked == 0
    assert batch.segment_lengths == (3, 4, 1)


def test_a_batch_whose_borders_disagree_is_refused():
    batch = collate([masked_block([3])], 8, 4, PAD)
    with pytest.raises(ValueError, match="disagree on the number of segments"):
        type(batch)(batch.input_ids_T, batch.cu_seqlens_S1, batch.masked_positions_M, batch.labels_M, (8,), 8, 3, 1)


def test_a_batch_that_counts_more_masked_positions_than_labels_is_refused():
    batch = collate([masked_block([3])], 8, 4, PAD)
    with pytest.raises(ValueError, match="num_masked=2 is not between 0 and the 1 labels"):
        type(batch)(*list(vars(batch).values())[:-1], 2)


def test_masked_positions_are_filled_up_with_rows_that_carry_no_loss():
    blocks = [masked_block([8]), masked_block([4, 4], positions=(1, 6))]
    plain, filled = (collate(blocks, 10, 10, PAD, pad_masked_to=rows) for rows in (None, 256))
    assert plain.num_masked == filled.num_masked == 3
    assert torch.equal(filled.masked_positions_M[:3], plain.masked_positions_M)
    assert torch.equal(filled.labels_M[:3], plain.labels_M)
    assert filled.masked_positions_M[3:].tolist() == [0] * 253
    assert filled.labels_M[3:].tolist() == [IGNORED] * 253


def test_more_masked_positions_than_the_fixed_rows_take_the_next_multiple():
    many = masked_block([600], positions=range(257))
    assert collate([many], 600, 600, PAD, pad_masked_to=256).labels_M.shape == (512,)
    none = masked_block([600], positions=())
    assert collate([none], 600, 600, PAD, pad_masked_to=256).num_masked == 0


def test_fixed_rows_hold_nearly_every_draw_and_waste_little():
    assert masked_rows(8192, 0.3) == 2816  # 2457.6 expected, deviation 41.5
    assert masked_rows(8192, 1.0) == 8192
    assert masked_rows(8192, 0.0) == 0
    assert masked_rows(100, 0.3) == 256
    draws = np.random.default_rng(0).binomial(8192, 0.3, size=100_000)
    assert draws.max() <= masked_rows(8192, 0.3)


def test_a_deep_copy_of_a_batch_is_the_batch():
    batch = collate([masked_block([3])], 8, 4, PAD)
    assert copy.deepcopy([batch])[0] is batch


def test_moving_a_batch_keeps_what_the_host_knows():
    batch = collate([masked_block([5, 2])], 8, 4, PAD, pad_masked_to=256)
    moved = batch.to(torch.device("meta"))
    assert {tensor.device.type for tensor in vars(moved).values() if isinstance(tensor, torch.Tensor)} == {"meta"}
    assert (moved.segment_lengths, moved.max_seqlen, moved.num_real_tokens, moved.num_masked) == ((5, 2, 1), 5, 7, 1)


@pytest.mark.gpu
def test_a_pinned_batch_equals_the_batch_and_is_page_locked():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    batch = collate([masked_block([5, 2])], 8, 4, PAD)
    pinned = batch.pin()
    assert pinned.input_ids_T.is_pinned()
    assert pinned.labels_M.is_pinned()
    assert torch.equal(pinned.to(torch.device("cuda")).input_ids_T.cpu(), batch.input_ids_T)
