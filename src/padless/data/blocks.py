"""Tokenised documents to packed blocks of one max_seq_len: cut, pack in windows, put the specials in.

Legend: D documents, N segments, S segments of a block, T tokens of a block.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from padless.config.check_phase import LONG_PHASE_TOKENS
from padless.data.manifest import ShardFacts, SplitBlocks
from padless.data.packing import SPECIALS_PER_SEGMENT, Segments, cut, pack
from padless.data.progress import Progress
from padless.data.token_store import TokenStore

WINDOW_SEGMENTS = 4_000_000  # packed at a time: bounds memory (about 1 GB) and costs one unfilled block each
SHARES_OVER = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True)
class PackingRules:
    """What blocks are made by."""

    max_seq_len: int
    block_tokens: int
    cls_id: int
    sep_id: int
    dtype: str


class SplitPacker:
    """Packs one split of a token store; iterate it once, then read the figures.

    Args:
        store: tokenised documents.
        documents_D: numbers of the split's documents.
        rules: how to pack.
        progress: is told the tokens packed so far.
    """

    def __init__(
        self, store: TokenStore, documents_D: NDArray[np.int64], rules: PackingRules, progress: Progress
    ) -> None:
        self._store, self._documents_D, self._rules, self._progress = store, documents_D, rules, progress
        self.num_blocks = self.num_segments = self.num_real_tokens = 0
        self._tokens_over = dict.fromkeys(SHARES_OVER, 0)

    def __iter__(self) -> Iterator[tuple[NDArray[np.unsignedinteger], NDArray[np.int32]]]:
        for window_D in _windows(self._documents_D, self._store.tokens_D, self._rules.max_seq_len):
            segments = cut(self._store.tokens_D[window_D], self._rules.max_seq_len)
            self._count(segments.lengths_N)
            for order_S in pack(segments.lengths_N, self._rules.block_tokens).blocks():
                tokens_T = self._tokens(window_D, segments, order_S)
                self.num_blocks += 1
                self.num_real_tokens += tokens_T.size
                self._progress.show(self.num_real_tokens)
                yield tokens_T, segments.lengths_N[order_S].astype(np.int32)

    def _count(self, lengths_N: NDArray[np.int64]) -> None:
        self.num_segments += lengths_N.size
        for length in SHARES_OVER:
            self._tokens_over[length] += int(lengths_N[lengths_N > length].sum())

    def _tokens(
        self, window_D: NDArray[np.int64], segments: Segments, order_S: NDArray[np.int64]
    ) -> NDArray[np.unsignedinteger]:
        rules, lengths_S = self._rules, segments.lengths_N[order_S]
        document_S, start_S = window_D[segments.document_N[order_S]], segments.start_N[order_S]
        end_S = np.cumsum(lengths_S)
        tokens_T = np.empty(int(end_S[-1]), rules.dtype)
        tokens_T[end_S - lengths_S] = rules.cls_id
        tokens_T[end_S - 1] = rules.sep_id
        for document, start, end, length in zip(
            document_S.tolist(), start_S.tolist(), end_S.tolist(), lengths_S.tolist(), strict=True
        ):
            content = self._store.content(document, start, length - SPECIALS_PER_SEGMENT)
            tokens_T[end - length + 1 : end - 1] = content
        return tokens_T

    def facts(self, path: Path, shards: tuple[ShardFacts, ...]) -> SplitBlocks:
        """Return the manifest entry, after iteration."""
        total = max(1, self.num_real_tokens)
        shares = {str(length): round(tokens / total, 6) for length, tokens in self._tokens_over.items()}
        fill = self.num_real_tokens / (self.num_blocks * self._rules.block_tokens) if self.num_blocks else 1.0
        return SplitBlocks(
            num_blocks=self.num_blocks,
            num_segments=self.num_segments,
            num_real_tokens=self.num_real_tokens,
            fill=round(fill, 6),
            path=path.as_posix(),
            long_token_share=shares[str(LONG_PHASE_TOKENS)],
            segment_token_share_over=shares,
            shards=shards,
        )


def _windows(
    documents_D: NDArray[np.int64], tokens_D: NDArray[np.int64], max_seq_len: int
) -> Iterator[NDArray[np.int64]]:
    """Split documents, in order, into windows of about ``WINDOW_SEGMENTS`` segments."""
    segments_D = -(-tokens_D[documents_D] // (max_seq_len - SPECIALS_PER_SEGMENT))
    window_D = (np.cumsum(segments_D) - segments_D) // WINDOW_SEGMENTS
    yield from (part for part in np.split(documents_D, np.flatnonzero(np.diff(window_D)) + 1) if part.size)
