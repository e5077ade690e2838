import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from padless.data.collate import Block, MaskedBlock, collate, filler_lengths

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
        type(batch)(batch.input_ids_T, batch.cu_seqlens_S1, batch.masked_positions_M, batch.labels_M, (8,), 8, 3)
