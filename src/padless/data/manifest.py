"""``manifest.json`` of a prepared folder: what is in it, written last. A folder without one is not prepared.

Reading and verifying it needs neither Streaming nor torch.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from padless.data.durable import sha256_of_file, write_durably
from padless.data.json_file import MAX_TOKENIZER_BYTES, read_json, refuse_large
from padless.data.manifest_check import check_manifest
from padless.data.shard_check import REDO, PackedSplit, ShardFacts, check_hash, check_header, check_index, check_size
from padless.errors import DataError

FORMAT_VERSION = 1  # of the folder; also goes up when the same tokens would be packed into other blocks
MANIFEST = "manifest.json"


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

    def packed(self, stream: str, folder: Path, max_seq_len: int, split: str) -> PackedSplit:
        """Return what a reader of one split needs to know.

        Args:
            stream: name of the stream, for messages.
            folder: the prepared folder, or the cache of a remote one.
            max_seq_len: cap that the blocks were packed for.
            split: "train" or "val".

        Raises:
            DataError: the folder has no blocks of this max_seq_len.
        """
        blocks = self.split(max_seq_len, split)
        return PackedSplit(
            stream,
            folder / blocks.path,
            self.dtype,
            self.vocab_size,
            self.block_tokens,
            max_seq_len,
            blocks.num_blocks,
            blocks.shards,
        )

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
        DataError: there is none, it cannot be read by this version, or it says what is not possible.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(
            f"{folder} has no {MANIFEST}: not prepared, or not to the end",
            "prepare it with data_prep/prepare.py; the same command again finishes what was interrupted",
        )
    try:
        tree = read_json(path)
        version = tree["format_version"]
        if version != FORMAT_VERSION:
            raise DataError(f"{path} has format version {version}, this padless reads {FORMAT_VERSION}", REDO)
        tree["all_special_ids"] = tuple(tree["all_special_ids"])
        tree["blocks"] = {
            cap: {name: _split_from(split) for name, split in splits.items()} for cap, splits in tree["blocks"].items()
        }
        manifest = Manifest(**tree)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a manifest: {type(error).__name__}: {error}", REDO) from error
    try:
        check_manifest(manifest)
    except ValueError as error:
        raise DataError(f"{path} cannot be right: {error}", REDO) from error
    return manifest


def _split_from(tree: dict[str, Any]) -> SplitBlocks:
    return SplitBlocks(**{**tree, "shards": tuple(ShardFacts(**shard) for shard in tree["shards"])})


def verify_manifest(
    folder: Path, *, shards_are_local: bool = True, read_headers: bool = True, read_shards: bool = False
) -> Manifest:
    """Return the manifest of a prepared folder after checking that what it names is there and whole.

    Args:
        folder: a prepared folder.
        shards_are_local: False for the cache of a remote: only manifest and tokenizer are looked at.
        read_headers: open every shard and compare its header with its size and the index.
        read_shards: compare hashes too, not only sizes; reads everything.

    Raises:
        DataError: manifest, tokenizer, index or shard is missing, cut off, changed or not what we write.
    """
    manifest = read_manifest(folder)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise DataError(f"{tokenizer} is missing", REDO)
    refuse_large(tokenizer, MAX_TOKENIZER_BYTES)
    if sha256_of_file(tokenizer) != manifest.tokenizer_sha256:
        raise DataError(
            f"{tokenizer} is not the tokenizer the shards were made with",
            "put the original tokenizer.json back, or prepare the documents again with this one",
        )
    if shards_are_local:
        for cap, splits in manifest.blocks.items():
            for name in splits:
                split = manifest.packed(folder.name, folder, int(cap), name)
                _verify_split(split, read_headers=read_headers, read_shards=read_shards)
    return manifest


def _verify_split(split: PackedSplit, *, read_headers: bool, read_shards: bool) -> None:
    if split.num_blocks == 0:
        return
    for number, samples in enumerate(check_index(split)):
        path, shard = split.path(number), split.shards[number]
        check_size(path, shard)
        if read_headers:
            check_header(split, number, samples)
        if read_shards:
            check_hash(path, shard)
