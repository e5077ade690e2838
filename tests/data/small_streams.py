"""Small streams of random blocks on disk, without a manifest: what ``padless.data.mds`` reads."""

from pathlib import Path

import numpy as np
from streaming import MDSWriter

from padless.data.durable import sha256_of_file
from padless.data.mds import StreamSource
from padless.data.shard_check import PackedSplit, ShardFacts

BLOCK_TOKENS = 32
MAX_SEQ_LEN = 16
VOCAB_SIZE = 100
COLUMNS = {"block": "int", "tokens": "ndarray:uint16", "lengths": "ndarray:int32"}
SHARD_BYTES = 1 << 11


def random_blocks(num_blocks, seed=0):
    draw = np.random.default_rng(seed)
    for index in range(num_blocks):
        first, second = int(draw.integers(1, 17)), int(draw.integers(1, 16))
        tokens = draw.integers(5, VOCAB_SIZE, first + second).astype(np.uint16)
        yield {"block": index, "tokens": tokens, "lengths": np.array([first, second], np.int32)}


def write_samples(folder: Path, samples, columns=COLUMNS, **settings) -> Path:
    with MDSWriter(out=str(folder), columns=columns, hashes=["xxh64"], size_limit=SHARD_BYTES, **settings) as writer:
        for sample in samples:
            writer.write(sample)
    return folder


def split_of(folder: Path, num_blocks: int, name: str | None = None) -> PackedSplit:
    """What a manifest would say of the shards that lie in ``folder`` now."""
    shards = tuple(
        ShardFacts(path.name, path.stat().st_size, sha256_of_file(path)) for path in sorted(folder.glob("*.mds"))
    )
    return PackedSplit(name or folder.name, folder, "uint16", VOCAB_SIZE, BLOCK_TOKENS, MAX_SEQ_LEN, num_blocks, shards)


def write_split(folder: Path, num_blocks: int, seed: int = 0) -> PackedSplit:
    return split_of(write_samples(folder, random_blocks(num_blocks, seed)), num_blocks)


def write_source(folder: Path, num_blocks: int, proportion: float = 1.0, seed: int = 0, **more) -> StreamSource:
    return StreamSource(write_split(folder, num_blocks, seed), None, proportion, **more)
