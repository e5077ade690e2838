"""``manifest.json`` of a prepared folder: what is in it, written last. A folder without one is not prepared.

Reading and verifying it needs neither Streaming nor torch.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from padless.data.durable import sha256_of_file, write_durably
from padless.errors import DataError

FORMAT_VERSION = 1  # of the folder; also goes up when the same tokens would be packed into other blocks
MANIFEST = "manifest.json"
REDO = "prepare the folder again (data_prep/prepare.py), or copy it again in full"


@dataclass(frozen=True)
class ShardFacts:
    """One MDS shard file."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitBlocks:
    """The packed blocks of one split at one max_seq_len."""

    num_blocks: int
    num_segments: int
    num_real_tokens: int  # specials included, filler not
    fill: float  # real tokens / (blocks x block_tokens)
    path: str  # within the folder
    long_token_share: float  # of real tokens, in segments longer than 2,048
    segment_token_share_over: dict[str, float]  # the same for other lengths
    shards: tuple[ShardFacts, ...]


@dataclass(frozen=True)
class Manifest:
    """Everything a training run needs to know before it opens a shard."""

    format_version: int
    tokenizer_sha256: str
    vocab_size: int  # largest id + 1
    special_ids: dict[str, int]  # unk, cls, sep, pad, mask
    all_special_ids: tuple[int, ...]  # sorted; never masked
    dtype: str
    block_tokens: int
    val_fraction: float
    documents: dict[str, int]  # train, val, empty (skipped), ...
    tokens: dict[str, int]  # content tokens by split, specials not included
    tokens_sha256: str  # of all tokens and their order
    sources: dict[str, int]  # documents by source, most frequent first
    length_histogram: dict[str, int]  # documents by content tokens; key is the upper bound, a power of two
    max_document_tokens: int
    blocks: dict[str, dict[str, SplitBlocks]]  # max_seq_len -> split
    input: dict[str, Any]  # settings and files
    versions: dict[str, str] = field(default_factory=dict)

    def split(self, max_seq_len: int, split: str) -> SplitBlocks:
        """Return the blocks of one split packed for ``max_seq_len``.

        Raises:
            DataError: the folder has no blocks of this max_seq_len.
        """
        if str(max_seq_len) not in self.blocks:
            raise DataError(
                f"prepared for max_seq_len {', '.join(self.blocks)}, not for {max_seq_len}",
                f"run data_prep/prepare.py again with max_seq_len={','.join([*self.blocks, str(max_seq_len)])}: "
                "it only packs, nothing is tokenised anew",
            )
        return self.blocks[str(max_seq_len)][split]

    def identity(self) -> dict[str, Any]:
        """Return what the content of every block follows from; another max_seq_len packed later does not change it."""
        return {
            "format_version": self.format_version,
            "tokenizer_sha256": self.tokenizer_sha256,
            "tokens_sha256": self.tokens_sha256,
            "block_tokens": self.block_tokens,
        }


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` at once; everything it names must be on disk by now."""
    write_durably(folder / MANIFEST, (json.dumps(asdict(manifest), indent=1) + "\n").encode())


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a prepared folder, without looking at what it names.

    Raises:
        DataError: there is none, or it cannot be read by this version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(
            f"{folder} has no {MANIFEST}: not prepared, or not to the end",
            "prepare it with data_prep/prepare.py; the same command again finishes what was interrupted",
        )
    try:
        tree = json.loads(path.read_bytes())
        version = tree["format_version"]
        if version != FORMAT_VERSION:
            raise DataError(f"{path} has format version {version}, this padless reads {FORMAT_VERSION}", REDO)
        tree["all_special_ids"] = tuple(tree["all_special_ids"])
        tree["blocks"] = {
            cap: {name: _split_from(split) for name, split in splits.items()} for cap, splits in tree["blocks"].items()
        }
        return Manifest(**tree)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a manifest: {type(error).__name__}: {error}", REDO) from error


def _split_from(tree: dict[str, Any]) -> SplitBlocks:
    return SplitBlocks(**{**tree, "shards": tuple(ShardFacts(**shard) for shard in tree["shards"])})


def verify_manifest(folder: Path, *, shards_are_local: bool = True, read_shards: bool = False) -> Manifest:
    """Return the manifest of a prepared folder after checking that what it names is there and whole.

    Args:
        folder: a prepared folder.
        shards_are_local: False for the cache of a remote: only manifest and tokenizer are looked at.
        read_shards: compare hashes too, not only sizes; reads everything.

    Raises:
        DataError: manifest, tokenizer, index or shard is missing, cut off or changed.
    """
    manifest = read_manifest(folder)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise DataError(f"{tokenizer} is missing", REDO)
    if sha256_of_file(tokenizer) != manifest.tokenizer_sha256:
        raise DataError(
            f"{tokenizer} is not the tokenizer the shards were made with",
            "put the original tokenizer.json back, or prepare the documents again with this one",
        )
    if shards_are_local:
        for splits in manifest.blocks.values():
            for split in splits.values():
                _verify_split(folder / split.path, split, read_shards=read_shards)
    return manifest


def _verify_split(folder: Path, split: SplitBlocks, *, read_shards: bool) -> None:
    if split.num_blocks == 0:
        return
    index = folder / "index.json"
    if not index.is_file():
        raise DataError(f"{index} is missing", REDO)
    try:
        entries = [entry["raw_data"] for entry in json.loads(index.read_bytes())["shards"]]
        listed = {entry["basename"]: entry["bytes"] for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{index} is not an MDS index: {type(error).__name__}: {error}", REDO) from error
    if listed != {shard.name: shard.bytes for shard in split.shards}:
        raise DataError(f"{index} does not list the shards that the manifest names", REDO)
    for shard in split.shards:
        _verify_shard(folder / shard.name, shard, read_shards=read_shards)


def _verify_shard(path: Path, shard: ShardFacts, *, read_shards: bool) -> None:
    if not path.is_file():
        raise DataError(f"shard {path} is missing", REDO)
    found = path.stat().st_size
    if found != shard.bytes:
        raise DataError(f"shard {path} is damaged: {found:_} bytes found, {shard.bytes:_} expected", REDO)
    if read_shards and sha256_of_file(path) != shard.sha256:
        raise DataError(f"shard {path} is damaged: its SHA-256 is not the manifest's", REDO)
