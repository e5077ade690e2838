"""Whether what a ``manifest.json`` says is possible: types, ranges, and names that cannot lead out of the folder."""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from padless.data.manifest import Manifest, SplitBlocks

DTYPES = {"uint16": 1 << 16, "uint32": 1 << 31}  # token ids that fit
SPLITS = {"train", "val"}
_MAX_COUNT = 1 << 60
_MAX_BLOCK_TOKENS = 1 << 24
_NEEDED_SPECIALS = ("cls", "sep", "pad", "mask")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")
_CAP = re.compile(r"[1-9][0-9]{0,8}")


def check_manifest(manifest: "Manifest") -> None:
    """Check every field that a run relies on.

    Raises:
        ValueError: says which field and its value.
    """
    if type(manifest.dtype) is not str or manifest.dtype not in DTYPES:
        raise ValueError(f"dtype={shown(manifest.dtype)} is not one of {', '.join(DTYPES)}")
    _whole(manifest.vocab_size, "vocab_size", 1, DTYPES[manifest.dtype])
    _whole(manifest.block_tokens, "block_tokens", 1, _MAX_BLOCK_TOKENS)
    _sha256(manifest.tokenizer_sha256, "tokenizer_sha256")
    _sha256(manifest.tokens_sha256, "tokens_sha256")
    _share(manifest.val_fraction, "val_fraction")
    _whole(manifest.max_document_tokens, "max_document_tokens", 0, _MAX_COUNT)
    for field in ("documents", "tokens", "sources", "length_histogram"):
        for key, value in _mapping(getattr(manifest, field), field).items():
            _whole(value, f"{field}.{key}", 0, _MAX_COUNT)
    _mapping(manifest.input, "input")
    _mapping(manifest.versions, "versions")
    _check_specials(manifest)
    for cap, splits in _mapping(manifest.blocks, "blocks").items():
        if not _CAP.fullmatch(cap) or int(cap) > manifest.block_tokens:
            raise ValueError(f"blocks.{shown(cap)} is not a max_seq_len of 1 to block_tokens={manifest.block_tokens}")
        if set(splits) != SPLITS:
            raise ValueError(f"blocks.{cap} has splits {shown(sorted(splits))}, not train and val")
        for name, split in splits.items():
            _check_split(split, f"blocks.{cap}.{name}")


def _check_specials(manifest: "Manifest") -> None:
    named = _mapping(manifest.special_ids, "special_ids")
    missing = [name for name in _NEEDED_SPECIALS if name not in named]
    if missing:
        raise ValueError(f"special_ids has no {missing[0]}")
    for key, value in [*named.items(), *enumerate(manifest.all_special_ids)]:
        _whole(value, f"special id {key}", 0, manifest.vocab_size - 1)


def _check_split(split: "SplitBlocks", what: str) -> None:
    for field in ("num_blocks", "num_segments", "num_real_tokens"):
        _whole(getattr(split, field), f"{what}.{field}", 0, _MAX_COUNT)
    for field in ("fill", "long_token_share"):
        _share(getattr(split, field), f"{what}.{field}")
    for key, value in _mapping(split.segment_token_share_over, f"{what}.segment_token_share_over").items():
        _share(value, f"{what}.segment_token_share_over.{key}")
    if type(split.path) is not str or not all(_PLAIN_NAME.fullmatch(part) for part in split.path.split("/")):
        raise ValueError(f"{what}.path={shown(split.path)} is not a path within the folder")
    names = set()
    for shard in split.shards:
        if type(shard.name) is not str or not _PLAIN_NAME.fullmatch(shard.name) or not shard.name.endswith(".mds"):
            raise ValueError(f"{what} names the shard {shown(shard.name)}, which is not a plain name ending in .mds")
        if shard.name in names:
            raise ValueError(f"{what} names the shard {shard.name} twice")
        names.add(shard.name)
        _whole(shard.bytes, f"{what}: bytes of {shard.name}", 1, (1 << 32) - 1)  # MDS counts bytes in 32 bits
        _sha256(shard.sha256, f"{what}: sha256 of {shard.name}")


def shown(value: object) -> str:
    """Return a value of a stranger's file for an error's one line, cut off after 80 characters."""
    return " ".join(repr(value).split())[:80]


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise ValueError(f"{what}={shown(value)} is not a mapping")
    return value


def _whole(value: Any, what: str, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{what}={shown(value)} is not a whole number from {least} to {most}")


def _share(value: Any, what: str) -> None:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError(f"{what}={shown(value)} is not a share from 0 to 1")


def _sha256(value: Any, what: str) -> None:
    if type(value) is not str or not _SHA256.fullmatch(value):
        raise ValueError(f"{what}={shown(value)} is not a SHA-256 in hex")
