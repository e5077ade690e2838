"""Whether the shards of one split are what the manifest says, before a sample of them is read.

Folders come from strangers and disks lose bits. ``index.json`` has to list the manifest's shards in our columns and
nothing else; a shard's size, its header (number of samples, then where each begins) and, where wanted, its SHA-256 have
to agree with both. Sizes are compared before memory is taken. Needs neither Streaming nor torch.
"""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from padless.data.durable import sha256_of_file
from padless.data.json_file import read_json
from padless.data.manifest_check import shown
from padless.errors import DataError

REDO = "prepare the folder again (data_prep/prepare.py), or copy it again in full"
COLUMNS = ("block", "lengths", "tokens")  # in the order of MDS, which sorts them
_LENGTH_BYTES = 4
_WORD_BYTES = 4  # of the header: number of samples, then begin of each sample, then end of the last
_INT_BYTES = 8
_ARRAY_HEADER_BYTES = (2, 9)  # dimensions of a flat array: at least, at most
_INFO_KEYS = {"basename", "bytes", "hashes"}
_FREE_KEYS = {"hashes", "raw_data", "samples", "size_limit"}  # the others have one value


@dataclass(frozen=True)
class ShardFacts:
    """One MDS shard file."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class PackedSplit:
    """The blocks of one split at one max_seq_len: where they are, and what its manifest says of them."""

    stream: str  # for messages
    folder: Path
    dtype: str
    vocab_size: int
    block_tokens: int
    max_seq_len: int
    num_blocks: int
    shards: tuple[ShardFacts, ...]

    @property
    def index(self) -> Path:
        """Its ``index.json``."""
        return self.folder / "index.json"

    def path(self, shard: int) -> Path:
        """Return the file of shard number ``shard``."""
        return self.folder / self.shards[shard].name


class ShardMissing(DataError):
    """A shard file is not there: damage, or not fetched yet."""


def check_index(split: PackedSplit) -> tuple[int, ...]:
    """Return the number of samples of each shard, after checking all that a reader would take from ``index.json``.

    Raises:
        DataError: it is missing, too large, not an index, or lists anything but the manifest's shards in our columns.
    """
    index = split.index
    if not index.is_file():
        raise DataError(f"{index} is missing", REDO)
    try:
        tree = read_json(index)
        if tree["version"] != 2:
            raise ValueError(f"version {shown(tree['version'])}")
        entries = list(tree["shards"])
        listed = [(entry["raw_data"]["basename"], entry["raw_data"]["bytes"]) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{index} is not an MDS index: {type(error).__name__}: {error}", REDO) from error
    if listed != [(shard.name, shard.bytes) for shard in split.shards]:
        raise DataError(f"{index} does not list the shards that the manifest names", REDO)
    for entry, shard in zip(entries, split.shards, strict=True):
        fault = _entry_fault(entry, split.dtype, shard.bytes)
        if fault is not None:
            raise DataError(f"{index}: shard {shard.name} has {fault}", REDO)
    samples = tuple(entry["samples"] for entry in entries)
    if sum(samples) != split.num_blocks:
        raise DataError(f"{index} has {sum(samples):_} samples, the manifest {split.num_blocks:_} blocks", REDO)
    return samples


def _entry_fault(entry: dict[str, Any], dtype: str, shard_bytes: int) -> str | None:
    """Return what an entry of the index has that ours have not; comparing JSON text tells 1 from true and 1.0."""
    expected = {
        "column_encodings": ["int", "ndarray:int32", f"ndarray:{dtype}"],
        "column_names": list(COLUMNS),
        "column_sizes": [_INT_BYTES, None, None],
        "compression": None,
        "format": "mds",
        "version": 2,
        "zip_data": None,
    }
    for key, value in expected.items():
        if key not in entry or json.dumps(entry[key]) != json.dumps(value):
            return f"{key} {shown(entry.get(key))}, expected {json.dumps(value)}"
    odd = (set(entry) ^ (set(expected) | _FREE_KEYS)) | (set(entry["raw_data"]) ^ _INFO_KEYS)
    if odd:
        return f"other fields than an MDS index: {shown(sorted(odd))}"
    limit, samples = entry["size_limit"], entry["samples"]
    if limit is not None and (type(limit) is not int or limit < 1):
        return f"size_limit {shown(limit)}"
    if type(samples) is not int or samples < 1:
        return f"samples {shown(samples)}"
    if _header_bytes(samples) > shard_bytes:
        return f"{samples:_} samples, more than its {shard_bytes:_} bytes can hold"
    return None


def _header_bytes(samples: int) -> int:
    return _WORD_BYTES * (samples + 2)


def check_size(path: Path, shard: ShardFacts) -> os.stat_result:
    """Return what the file system says of a shard file that has the size it should have.

    Raises:
        ShardMissing: it is not there.
        DataError: it has another size, or cannot be looked at.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ShardMissing(f"shard {path} is missing", REDO) from None
    except OSError as error:
        raise DataError(f"shard {path} cannot be read: {error.strerror}", "check the disk and its rights") from error
    if found.st_size != shard.bytes:
        raise DataError(f"shard {path} is damaged: {found.st_size:_} bytes found, {shard.bytes:_} expected", REDO)
    return found


def check_header(split: PackedSplit, shard: int, samples: int) -> None:
    """Check that the header of a shard of the right size places ``samples`` blocks within the file, in order.

    Raises:
        DataError: it does not, naming shard and sample.
    """
    path, end = split.path(shard), split.shards[shard].bytes
    with path.open("rb") as file:
        words = np.frombuffer(file.read(_header_bytes(samples)), "<u4")
    if words.size != samples + 2 or words[0] != samples:
        counted = int(words[0]) if words.size else 0
        raise DataError(f"shard {path} is damaged: its header counts {counted:_} samples, index {samples:_}", REDO)
    begins = words[1:].astype(np.int64)
    sizes = np.diff(begins)
    least, most = _sample_bytes(split)
    if begins[0] < _header_bytes(samples):
        raise DataError(f"shard {path} is damaged: sample 0 begins within its header", REDO)
    wrong = np.flatnonzero((sizes < least) | (sizes > most) | (begins[1:] > end))
    if wrong.size:
        sample = int(wrong[0])
        raise DataError(
            f"shard {path} is damaged: sample {sample} lies at bytes {begins[sample]:_} to {begins[sample + 1]:_} of "
            f"{end:_}, and a block has {least:_} to {most:_} bytes",
            REDO,
        )
    if begins[-1] != end:
        raise DataError(f"shard {path} is damaged: its samples end at byte {begins[-1]:_} of {end:_}", REDO)


def _sample_bytes(split: PackedSplit) -> tuple[int, int]:
    """Return the least and the most bytes of a sample: three columns, two of them arrays with their lengths."""
    fixed = 2 * _LENGTH_BYTES + _INT_BYTES
    a_token, a_length = np.dtype(split.dtype).itemsize, np.dtype(np.int32).itemsize
    low, high = _ARRAY_HEADER_BYTES
    return fixed + 2 * low + a_token + a_length, fixed + 2 * high + split.block_tokens * (a_token + a_length)


def check_hash(path: Path, shard: ShardFacts) -> None:
    """Compare a shard's SHA-256 with the manifest's; reads the whole file.

    Raises:
        DataError: they differ.
    """
    if sha256_of_file(path) != shard.sha256:
        raise DataError(f"shard {path} is damaged: its SHA-256 is not the manifest's", REDO)


class ShardGate:
    """Looks at a shard when this process first reads it, and at its size every time.

    Args:
        split: what the manifest says.
        hash_shards: compare the SHA-256 too when a shard is first read.

    Raises:
        DataError: the index is not one of ours.
    """

    def __init__(self, split: PackedSplit, *, hash_shards: bool) -> None:
        self.split, self._hash_shards = split, hash_shards
        self.samples = check_index(split)
        self._seen: dict[int, tuple[int, int]] = {}

    @cached_property
    def starts(self) -> list[int]:
        """Number of blocks before each shard, and of all."""
        return [0, *np.cumsum(self.samples).tolist()]

    def check(self, shard: int) -> None:
        """Return if the shard may be read. A file that was replaced since (evicted, fetched again) is a new one.

        Raises:
            ShardMissing: it is not there.
            DataError: it is damaged.
        """
        path, facts = self.split.path(shard), self.split.shards[shard]
        found = check_size(path, facts)
        identity = (found.st_ino, found.st_mtime_ns)
        if self._seen.get(shard) == identity:
            return
        check_header(self.split, shard, self.samples[shard])
        if self._hash_shards:
            check_hash(path, facts)
        self._seen[shard] = identity
