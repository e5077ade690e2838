"""Packed blocks to MDS shards: the only writer of the format that ``mds`` reads.

A split is written into a folder of another name and renamed when it is whole; one sample is one block:
``block`` (its number in the split), ``tokens`` (real tokens only), ``lengths`` (of the segments, in order).
"""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from streaming import MDSWriter

from padless.data.durable import sha256_of_file, sync_folder
from padless.data.manifest import ShardFacts

SHARD_BYTES = 1 << 26

BlockArrays = tuple[NDArray[np.unsignedinteger], NDArray[np.int32]]


def write_split(folder: Path, blocks: Iterable[BlockArrays], dtype: str) -> tuple[ShardFacts, ...]:
    """Write all blocks of a split to ``folder``, replacing what is there, and return its shards; no block, no shard.

    Args:
        folder: ``blocks/<max_seq_len>/<split>``.
        blocks: tokens and segment lengths of each block, in order.
        dtype: of the tokens, "uint16" or "uint32".
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    columns = {"block": "int", "tokens": f"ndarray:{dtype}", "lengths": "ndarray:int32"}
    with MDSWriter(out=str(partial), columns=columns, hashes=["xxh64"], size_limit=SHARD_BYTES) as writer:
        for number, (tokens_T, lengths_S) in enumerate(blocks):
            writer.write({"block": number, "tokens": tokens_T, "lengths": lengths_S})
    index = json.loads((partial / "index.json").read_bytes())
    _sync_files(partial)
    names = [entry["raw_data"]["basename"] for entry in index["shards"]]
    shards = tuple(ShardFacts(name, (partial / name).stat().st_size, sha256_of_file(partial / name)) for name in names)
    partial.rename(folder)
    sync_folder(folder.parent)
    return shards


def _sync_files(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
