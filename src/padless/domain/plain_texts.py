"""Masked pieces of text that name none of some terms: what an extended vocabulary must not make worse."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer

from padless.data.batch import PackedBatch
from padless.data.collate import Block, MaskedBlock, collate
from padless.data.masking import MaskingRule, mask_tokens, validation_generator
from padless.model.masked_lm import MaskedLM

PIECE_TOKENS = 64  # content tokens of a piece: short ones are free of terms more often
_PIECES_A_BATCH = 32
_MASK_RATE = 0.15
_SEED = 17


def pieces_without(texts: Iterable[str], tokenizer: Tokenizer, ids: Sequence[int], most: int) -> list[list[int]]:
    """Return up to ``most`` pieces of texts, as ids without specials, none of which is among ``ids``."""
    named = set(ids)
    found: list[list[int]] = []
    for text in texts:
        tokens = tokenizer.encode(text, add_special_tokens=False).ids
        cut = (tokens[begin : begin + PIECE_TOKENS] for begin in range(0, len(tokens), PIECE_TOKENS))
        found += [piece for piece in cut if len(piece) == PIECE_TOKENS and named.isdisjoint(piece)]
        if len(found) >= most:
            break
    return found[:most]


def masked_batches(
    pieces: Sequence[Sequence[int]], special_ids: dict[str, int], all_special_ids: Sequence[int], vocab_size: int
) -> Iterator[PackedBatch]:
    """Yield the pieces as masked segments, with fixed masks.

    Args:
        pieces: from :func:`pieces_without`.
        special_ids: ids of cls, sep, pad and mask.
        all_special_ids: ids that are neither masked nor drawn.
        vocab_size: old entries, which random replacements are drawn from.
    """
    rule = MaskingRule.build(vocab_size, special_ids["mask"], list(all_special_ids), 0.8, 0.1)
    length = PIECE_TOKENS + 2
    for number, begin in enumerate(range(0, len(pieces), _PIECES_A_BATCH)):
        part = pieces[begin : begin + _PIECES_A_BATCH]
        rows = [[special_ids["cls"], *piece, special_ids["sep"]] for piece in part]
        tokens_T = np.concatenate([np.asarray(row, np.uint32) for row in rows])
        block = Block("plain", number, tokens_T, np.full(len(rows), length, np.int32))
        masked = mask_tokens(tokens_T, _MASK_RATE, rule, validation_generator(_SEED, "plain", number))
        yield collate([MaskedBlock(block, *masked)], tokens_T.size, length, special_ids["pad"])


def mean_loss(model: MaskedLM, batches: Iterable[PackedBatch]) -> float:
    """Return nats a masked token."""
    total, masked = 0.0, 0
    with torch.no_grad():
        for batch in batches:
            total += float(model.loss_sum(batch))
            masked += batch.num_masked
    return total / max(1, masked)


def log_sums(
    model: MaskedLM, batches: Iterable[PackedBatch], new_ids: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-sums of the logits of all other entries, and of the new ones, at every masked position."""
    old: list[torch.Tensor] = []
    new: list[torch.Tensor] = []
    with torch.no_grad():
        for batch in batches:
            logits_MV = model.logits_at(batch)
            is_new_V = torch.zeros(logits_MV.shape[1], dtype=torch.bool)
            is_new_V[list(new_ids)] = True
            old.append(logits_MV[:, ~is_new_V].logsumexp(dim=1))
            new.append(logits_MV[:, is_new_V].logsumexp(dim=1))
    return torch.cat(old), torch.cat(new)
