"""Rows of the embedding matrix, which is the decoder's too, for terms that had none.

A term begins at the mean of its pieces' rows, so the encoder reads it about as it read them. As an output it is one
more competitor in every softmax: with the mean of its pieces' biases alone it would take probability from words in
texts that never name it. So all new biases are lowered by one number, just as far as the loss on such texts asks for.
Rows that only fill the vocabulary up to a multiple of 64 are zero, with a bias that takes nothing.

Legend: V vocabulary, D model width, N new terms, M masked positions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from padless.config.schema import ModelConfig
from padless.domain.terms import Term
from padless.domain.vocabulary import VOCAB_MULTIPLE
from padless.export.hf_config import DECODER_BIAS
from padless.model.tensor_shapes import DECODER, EMBEDDING

FILLER_BIAS = -100.0  # a probability of e^-100 beside any other
_HALVINGS = 60


def extended_shape(model: ModelConfig, ids: Sequence[int]) -> ModelConfig:
    """Return the shape with room for the new ids, its vocabulary a multiple of 64."""
    needed = max(model.vocab_size, max(ids) + 1)
    return replace(model, vocab_size=-(-needed // VOCAB_MULTIPLE) * VOCAB_MULTIPLE)


def with_new_rows(
    weights: Mapping[str, Tensor], shape: ModelConfig, terms: Sequence[Term], ids: Sequence[int], shift: float
) -> dict[str, Tensor]:
    """Return the weights with a row for each term.

    Args:
        weights: by Hugging Face names.
        shape: from :func:`extended_shape`.
        terms: new words.
        ids: where each goes; a row that nothing used before may be there already.
        shift: added to the mean of the pieces' biases, in nats; not above 0.
    """
    old_VD, old_V = weights[EMBEDDING], weights[DECODER_BIAS]
    rows_VD = old_VD.new_zeros(shape.vocab_size, shape.hidden_size)
    bias_V = old_V.new_full((shape.vocab_size,), FILLER_BIAS)
    rows_VD[: old_VD.shape[0]], bias_V[: old_V.shape[0]] = old_VD, old_V
    for term, place in zip(terms, ids, strict=True):
        pieces = list(term.pieces)
        rows_VD[place] = old_VD[pieces].mean(dim=0)
        bias_V[place] = old_V[pieces].mean() + shift
    kept = {name: tensor for name, tensor in weights.items() if name != DECODER}
    return {**kept, EMBEDDING: rows_VD, DECODER_BIAS: bias_V}


def shift_for(old_M: Tensor, new_M: Tensor, most_added: float) -> float:
    """Return how far the new biases are lowered so that texts without the terms lose next to nothing.

    At a masked position the loss grows by log(1 + e^(new + shift - old)), where old and new are the log-sums of the
    logits of all old entries and of all new ones, at shift 0.

    Args:
        old_M: log-sum of the old entries' logits.
        new_M: log-sum of the new entries' logits.
        most_added: nats a masked token that the mean loss may grow by.
    """
    gap_M = (new_M - old_M).double()

    def added(shift: float) -> float:
        return float(torch.nn.functional.softplus(gap_M + shift).mean())

    if added(0.0) <= most_added:
        return 0.0
    low, high = math.log(most_added) - float(gap_M.max()) - 1.0, 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if added(middle) <= most_added else (low, middle)
    return low
