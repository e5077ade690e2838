"""Documents for the benches of speed: named length distributions, seeded, and how each side batches the same documents.

    pool of lengths  -> packed into blocks, as the preparation does      one block = one batch of ours
    documents of N of these blocks, in random order, cut into N parts   one part = one batch of a padded peer

Both sides see the same documents with the same masks over a run, but not in the same batch: packing puts documents of
similar length together, and padding such a batch would spare a peer most of its padding (measured: 2 % is padding then,
and 88 % of the real tokens in random order), which its users do not get: transformers' Trainer takes documents in
random order unless told otherwise. For the same reason a peer's batch of many short documents is computed in parts of
at most ``rows`` documents, gradients added up, as its users' memory forces them to.

Legend: N documents, T tokens of one document, M masked positions of it.
"""

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from padless.data.masking import MaskingRule, mask_tokens
from padless.data.packing import SPECIALS_PER_SEGMENT, cut, pack

PAD, CLS, SEP, MASK, FIRST_WORD = 0, 1, 2, 3, 5
_LEAST_POOL_BLOCKS = 200  # so that packing finds what fits
_LEAST_FILL = 0.9  # the pool's last blocks are what was left over: one in a thousand of a real stream, and not taken


@dataclass(frozen=True)
class Case:
    """A distribution of content lengths, which are cut into segments of at most ``max_seq_len``.

    Args:
        name: as it is asked for.
        says: what it stands for.
        mean_tokens: mean content length of a document before it is cut.
        spread: standard deviation: of the logarithm for ``log_normal``, as a share of the mean for ``normal``.
        max_seq_len: cap on a segment, specials included.
        law: ``log_normal``, as texts are, or ``normal``.
    """

    name: str
    says: str
    mean_tokens: int
    spread: float
    max_seq_len: int
    law: Literal["log_normal", "normal"] = "log_normal"

    def draw(self, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Return content lengths of ``count`` documents."""
        if self.law == "normal":
            drawn_D = generator.normal(self.mean_tokens, self.spread * self.mean_tokens, count)
            drawn_D = np.minimum(drawn_D, self.max_seq_len - SPECIALS_PER_SEGMENT)
        else:
            drawn_D = np.exp(generator.normal(np.log(self.mean_tokens) - self.spread**2 / 2, self.spread, count))
        return np.maximum(np.round(drawn_D), 1).astype(np.int64)


CASES = {
    case.name: case
    for case in (
        Case("web", "web-like documents, 660 tokens on average, cut at 1024", 660, 1.0, 1024),
        Case("long", "documents around 3,000 tokens, cut at 8192", 3_000, 0.5, 8192),
        Case("full", "rows of exactly 1024 tokens", 1022, 0.0, 1024),
        Case("short", "short texts, 60 tokens on average, cut at 512", 60, 0.5, 512),
        # The efficiency table of the ModernBERT paper (Warner et al. 2024, table 2): rows of the largest length, and
        # lengths normally distributed around half of it. Their standard deviation, a quarter of the mean, is ours.
        Case("fixed-512", "rows of exactly 512 tokens", 510, 0.0, 512),
        Case("variable-512", "lengths around 256, at most 512", 254, 0.25, 512, "normal"),
        Case("fixed-8192", "rows of exactly 8192 tokens", 8190, 0.0, 8192),
        Case("variable-8192", "lengths around 4096, at most 8192", 4094, 0.25, 8192, "normal"),
    )
}


@dataclass(frozen=True)
class Document:
    """One segment with its mask.

    Attributes:
        tokens_T: original ids, [CLS] first and [SEP] last.
        input_ids_T: the same with masked tokens replaced.
        positions_M: where loss falls.
    """

    tokens_T: NDArray[np.int64]
    input_ids_T: NDArray[np.int64]
    positions_M: NDArray[np.int64]


@dataclass(frozen=True)
class Workload:
    """The documents of one run and both ways to batch them.

    Attributes:
        documents: all of them.
        packed: of each batch of ours, the numbers of its documents, in order.
        padded: of each batch of a peer, parts of at most ``rows`` documents.
        max_seq_len: cap on a segment.
    """

    documents: list[Document]
    packed: list[list[int]]
    padded: list[list[list[int]]]
    max_seq_len: int

    def lengths(self, numbers: list[int]) -> list[int]:
        """Return the tokens of these documents."""
        return [len(self.documents[number].tokens_T) for number in numbers]

    def masked(self, numbers: list[int]) -> int:
        """Return how many tokens of these documents are masked."""
        return sum(len(self.documents[number].positions_M) for number in numbers)

    def padding_factor(self) -> float:
        """Return the tokens that a padded peer computes, as a multiple of the real ones."""
        parts = [self.lengths(part) for batch in self.padded for part in batch]
        return sum(max(part) * len(part) for part in parts) / sum(sum(part) for part in parts)


def segment_lengths(case: Case, least_tokens: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return lengths of segments, specials included, that add up to at least ``least_tokens``."""
    lengths_N = np.empty(0, dtype=np.int64)
    while lengths_N.sum() < least_tokens:
        content_D = case.draw(1 + least_tokens // case.mean_tokens, generator)
        lengths_N = np.concatenate([lengths_N, cut(content_D, case.max_seq_len).lengths_N])
    return lengths_N


def draw_workload(
    case: Case, num_batches: int, batch_tokens: int, vocab_size: int, seed: int, mask_rate: float = 0.3, rows: int = 32
) -> Workload:
    """Return ``num_batches`` batches for either side; the same arguments give the same documents.

    Args:
        case: the length distribution.
        num_batches: of each side.
        batch_tokens: tokens of a packed batch; a peer's has as many on average.
        vocab_size: ids are drawn from it.
        seed: of lengths, ids, masks and the peer's order.
        mask_rate: share of the tokens that loss falls on.
        rows: most documents a peer computes at once.
    """
    generator = np.random.default_rng([seed, num_batches, batch_tokens])
    pool_blocks = max(_LEAST_POOL_BLOCKS, 2 * num_batches)
    lengths_N = segment_lengths(case, pool_blocks * batch_tokens, generator)
    lengths_N = np.minimum(lengths_N, batch_tokens)
    packing = pack(lengths_N, batch_tokens)
    filled = [block for block in packing.blocks() if lengths_N[block].sum() >= _LEAST_FILL * batch_tokens]
    blocks = _representative(filled, num_batches, generator)
    rule = MaskingRule.build(vocab_size, MASK, list(range(FIRST_WORD)), 0.8, 0.1)
    documents = [
        _draw_document(int(length), vocab_size, rule, mask_rate, generator)
        for length in lengths_N[np.concatenate(blocks)]
    ]
    borders = np.cumsum([0, *map(len, blocks)]).tolist()
    packed = [list(range(start, end)) for start, end in itertools.pairwise(borders)]
    padded = _cut_at_random(documents, num_batches, rows, generator)
    return Workload(documents, packed, padded, min(case.max_seq_len, batch_tokens))


def _representative(
    blocks: list[NDArray[np.int64]], num_batches: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return ``num_batches`` blocks in random order, evenly from those with few documents to those with many.

    Packing makes blocks of ten rows and blocks of two hundred; a few blocks taken blindly would be now the one, now the
    other, and no sample of the documents.
    """
    ordered = sorted(blocks, key=len)
    places = (generator.random() + np.arange(num_batches)) * len(ordered) / num_batches
    return [ordered[int(place)] for place in generator.permutation(places)]


def _draw_document(
    length: int, vocab_size: int, rule: MaskingRule, mask_rate: float, generator: np.random.Generator
) -> Document:
    tokens_T = generator.integers(FIRST_WORD, vocab_size, length)
    tokens_T[0], tokens_T[-1] = CLS, SEP
    return Document(tokens_T, *mask_tokens(tokens_T, mask_rate, rule, generator))


def _cut_at_random(
    documents: list[Document], num_batches: int, rows: int, generator: np.random.Generator
) -> list[list[list[int]]]:
    """Return all documents in random order, cut into parts with about the same tokens, at least one document each."""
    order = generator.permutation(len(documents))
    lengths = np.array([len(documents[number].tokens_T) for number in order])
    middles = np.cumsum(lengths) - lengths / 2
    part = np.minimum((middles * num_batches / lengths.sum()).astype(np.int64), num_batches - 1)
    batches = [order[part == number].tolist() for number in range(num_batches)]
    for batch in batches:
        if not batch:  # a long document reaches over the whole part: take one from the part with most
            batch.append(max(batches, key=len).pop())
    return [[batch[start : start + rows] for start in range(0, len(batch), rows)] for batch in batches]
