"""Whether one sample is a block: flat ids of the vocabulary, cut into segments that add up."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from padless.data.collate import Block
from padless.data.shard_check import REDO, PackedSplit
from padless.errors import DataError


def block_from(sample: Mapping[str, Any], split: PackedSplit, shard: int, place: int, index: int) -> Block:
    """Return the block that a decoded sample holds.

    Args:
        sample: ``block``, ``tokens``, ``lengths``.
        split: where it comes from.
        shard: number of its shard in the split.
        place: its number in the shard, for messages.
        index: its number in the split.

    Raises:
        DataError: it is not a block, naming stream, shard and sample.
    """
    fault = block_fault(sample, split, index)
    if fault is not None:
        raise bad_sample(split, shard, place, fault)
    return Block(split.stream, index, sample["tokens"], sample["lengths"])


def bad_sample(split: PackedSplit, shard: int, place: int, fault: str) -> DataError:
    """Return the error that says what is wrong with sample ``place`` of a shard."""
    return DataError(f"stream {split.stream!r}, shard {split.path(shard)}, sample {place}: {fault}", REDO)


def block_fault(sample: Mapping[str, Any], split: PackedSplit, index: int) -> str | None:
    """Return what is wrong with a sample that should be block ``index`` of ``split``."""
    tokens_T, lengths_S = sample["tokens"], sample["lengths"]
    if sample["block"] != index:
        return f"it is numbered {sample['block']:_}, and lies where block {index:_} should"
    if tokens_T.ndim != 1 or tokens_T.dtype != split.dtype:
        return f"its tokens are {tokens_T.ndim}-dimensional {tokens_T.dtype}, not flat {split.dtype}"
    if lengths_S.ndim != 1 or lengths_S.dtype != np.int32 or not lengths_S.size:
        return f"its lengths are {lengths_S.size} {lengths_S.ndim}-dimensional {lengths_S.dtype}, not a flat int32 list"
    least, most, total = int(lengths_S.min()), int(lengths_S.max()), int(lengths_S.sum(dtype=np.int64))
    if least < 1 or most > split.max_seq_len:
        return f"it has a segment of {least if least < 1 else most:_} tokens, outside 1 to {split.max_seq_len:_}"
    if total != tokens_T.size:
        return f"its segment lengths add up to {total:_}, it has {tokens_T.size:_} tokens"
    if total > split.block_tokens:
        return f"it has {total:_} tokens, a block holds {split.block_tokens:_}"
    largest = int(tokens_T.max())
    if largest >= split.vocab_size:
        return f"it has token id {largest:_}, the vocabulary ends at {split.vocab_size - 1:_}"
    return None
