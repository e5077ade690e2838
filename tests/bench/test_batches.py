"""Packed and padded tensors hold the same tokens, masks and labels."""

import torch

from padless.bench.batches import packed_batch, padded_batch
from padless.bench.lengths import CASES, PAD, draw_workload
from padless.data.batch import IGNORED


def drawn():
    return draw_workload(CASES["web"], 3, 2048, 512, 0)


def test_a_packed_batch_is_its_documents_one_after_the_other():
    workload = drawn()
    batch = packed_batch(workload, 1, 2048)
    lengths = workload.lengths(workload.packed[1])
    assert batch.input_ids_T.shape == (2048,)
    assert batch.segment_lengths[: len(lengths)] == tuple(lengths)
    assert batch.num_real_tokens == sum(lengths)
    joined = torch.cat([torch.from_numpy(workload.documents[each].input_ids_T) for each in workload.packed[1]])
    assert torch.equal(batch.input_ids_T[: sum(lengths)], joined)
    assert batch.num_masked == workload.masked(workload.packed[1])


def test_a_padded_batch_has_a_row_a_document():
    workload = drawn()
    numbers = workload.packed[0]
    batch, lengths = padded_batch(workload, numbers), workload.lengths(numbers)
    assert batch.input_ids_BL.shape == (len(numbers), max(lengths))
    assert batch.attention_mask_BL.sum(1).tolist() == lengths
    assert (batch.input_ids_BL[batch.attention_mask_BL == 0] == PAD).all()
    assert int((batch.labels_BL != IGNORED).sum()) == workload.masked(numbers)


def test_both_have_the_same_inputs_and_labels_in_order():
    workload = drawn()
    packed, padded = packed_batch(workload, 0, 2048), padded_batch(workload, workload.packed[0])
    real_BL = padded.attention_mask_BL == 1
    assert torch.equal(padded.input_ids_BL[real_BL], packed.input_ids_T[: packed.num_real_tokens])
    labels_T = padded.labels_BL[real_BL]
    assert torch.equal((labels_T != IGNORED).nonzero()[:, 0], packed.masked_positions_M)
    assert torch.equal(labels_T[labels_T != IGNORED], packed.labels_M)
