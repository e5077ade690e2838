"""Caches of streams that lie on a remote: what is fetched before the first step, and the limit on their size."""

from collections.abc import Callable
from pathlib import Path

from padless.config.schema import Config, PhaseConfig, StreamConfig
from padless.data.manifest import Manifest, read_manifest
from padless.data.prepared import packed_split, used_splits
from padless.data.remote import drop_half_fetched, fetch, fetch_index, fetch_split
from padless.data.shard_check import PackedSplit
from padless.errors import DataError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_CACHED_SHARDS = 4  # Streaming's own least
# Streaming's shuffle_block_size: over all canonical nodes, and the least of one.
_SHUFFLED_BLOCKS, _LEAST_SHUFFLED = 4_000_000, 1 << 18


def fetch_stream(config: Config, name: str, stream: StreamConfig, remote: str, say: Callable[[str], None]) -> None:
    """Fetch a stream's manifest, tokenizer, checked indexes and validation blocks into its cache, once a node.

    Raises:
        DataError: a file cannot be fetched, or is not one of ours.
    """
    local = Path(stream.local)
    for file in (*TOKENIZER_FILES, "manifest.json"):
        if not (local / file).exists():
            fetch(f"{remote}/{file}", local / file)
    manifest = read_manifest(local)
    for stream_name, max_seq_len, split_name in used_splits(config):
        if stream_name != name:
            continue
        split = packed_split(name, stream, manifest, max_seq_len, split_name)
        if split.num_blocks == 0:
            continue
        if not _holds_originals(stream) and (dropped := drop_half_fetched(split)):
            say(f"stream {name!r}: {dropped} shards in {split.folder} were fetched in part only; deleted")
        fetch_it = fetch_split if split_name == "val" else fetch_index
        fetch_it(f"{remote}/{manifest.split(max_seq_len, split_name).path}", split)


def check_cache_limit(
    config: Config, phase_name: str, phase: PhaseConfig, manifests: dict[str, Manifest], num_nodes: int
) -> list[str]:
    """Refuse a limit that a phase cannot keep to, or under which prepared originals would be deleted.

    Returns:
        A warning where the limit is less than what a node reads from at once: shards would be fetched again and again.

    Raises:
        DataError: names the limit and what to do.
    """
    limit = config.data.cache_limit_bytes
    if limit is None:
        return []
    splits = []
    for name in phase.streams:
        stream = config.data.streams[name]
        if _holds_originals(stream):
            raise DataError(
                f"data.cache_limit_bytes={limit:_} would delete shards of {stream.local}, which is a prepared folder "
                f"and not a cache: the only copy",
                f"give data.streams.{name}.local an empty folder as its cache, or set data.cache_limit_bytes=null",
            )
        splits.append(packed_split(name, stream, manifests[name], phase.max_seq_len, "train"))
    largest = max((shard.bytes for split in splits for shard in split.shards), default=0)
    indexes = sum(split.index.stat().st_size for split in splits if split.index.exists())
    least = indexes + _CACHED_SHARDS * largest
    if limit < least:
        raise DataError(
            f"data.cache_limit_bytes={limit:_} is too little for phase {phase_name!r}: its indexes have {indexes:_} "
            f"bytes, its largest shard {largest:_}, and {_CACHED_SHARDS} shards have to fit",
            f"use {least:_} or more, better many times that",
        )
    at_once = _bytes_at_once(config, splits, num_nodes)
    if limit >= at_once:
        return []
    return [
        f"data.cache_limit_bytes={limit:_} is less than a node reads from at once in phase {phase_name!r}, about "
        f"{at_once:_} bytes: shards will be fetched again and again, and training will wait for them"
    ]


def _bytes_at_once(config: Config, splits: list[PackedSplit], num_nodes: int) -> int:
    """Return the bytes of the shards that a node's blocks come from at one time: of one shuffle block a canonical node.

    Streaming shuffles within 4M blocks over the canonical nodes, at least 262,144 each, and reads from all of them.
    """
    canonical = config.data.num_canonical_nodes
    blocks = sum(split.num_blocks for split in splits)
    total = sum(shard.bytes for split in splits for shard in split.shards)
    shuffled = canonical * max(_SHUFFLED_BLOCKS // canonical, _LEAST_SHUFFLED) if config.data.shuffle else 0
    return total * min(blocks, shuffled) // max(1, blocks) // num_nodes


def _holds_originals(stream: StreamConfig) -> bool:
    """Return whether ``local`` is a prepared folder itself (its tokens are kept there) or the remote."""
    remote = (stream.remote or "").removeprefix("file://")
    is_remote = "://" not in remote and Path(remote).resolve() == Path(stream.local).resolve()
    return is_remote or (Path(stream.local) / "tokens").is_dir()
