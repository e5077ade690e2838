"""Open the prepared streams of a run and refuse, in the first seconds, what would fail or mislead later.

Looked at: manifests and shards are whole and ours, all streams share one tokenizer and it is the expected one, the
vocabulary is the model's, blocks exist for every phase's cap, a long phase has long documents, blocks are well filled,
a cache limit can be kept and deletes no only copy. What killed runs left in shared memory is removed.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from rich.console import Console

from padless.config.bundled_streams import STREAMS, validates_on_bundled
from padless.config.check_phase import LONG_PHASE_TOKENS
from padless.config.schema import Config, PhaseConfig
from padless.data.bundled import prepare_bundled
from padless.data.caches import TOKENIZER_FILES, check_cache_limit, fetch_stream
from padless.data.default_general import prepare_default_general
from padless.data.durable import sha256_of_file
from padless.data.leftovers import clean_leftovers
from padless.data.manifest import Manifest, verify_manifest
from padless.data.prepared import PreparedData, blocks_of, packed_split, used_splits
from padless.data.shard_hash import hash_shards
from padless.data.summary import MIN_FILL, fill_remedy
from padless.data.tokenise import load_tokenizer
from padless.errors import DataError

__all__ = ["TOKENIZER_FILES", "PreparedData", "Ranks", "open_data"]

_MIN_LONG_SHARE = 0.01


class Ranks(Protocol):
    """What opening data has to know of the ranks (``padless.train.world.World``)."""

    @property
    def is_leader(self) -> bool:
        """Whether this is the first rank of all, which prepares."""
        ...

    @property
    def is_node_leader(self) -> bool:
        """Whether this is the first rank of its node, which fetches into the node's cache."""
        ...

    @property
    def num_nodes(self) -> int:
        """Nodes, each with a cache of its own."""
        ...

    def barrier(self) -> None:
        """Wait for all ranks."""


def open_data(config: Config, ranks: Ranks, say: Callable[[str], None]) -> PreparedData:
    """Prepare the bundled corpus if the recipe wants it, then open and check all streams.

    Args:
        config: the checked config.
        ranks: who prepares, who fetches, and how the others wait.
        say: prints one line.

    Raises:
        DataError: a stream cannot be used, with the remedy.
    """
    if ranks.is_leader and config.data.prepare_bundled and not validates_on_bundled(config):
        _prepare_bundled(config)
    if ranks.is_node_leader:
        clean_leftovers(say)
        for name, stream in config.data.streams.items():
            if stream.remote is not None:
                fetch_stream(config, name, stream, stream.remote, say)
    ranks.barrier()
    if validates_on_bundled(config):
        if ranks.is_leader:
            prepare_default_general(config, say)
        ranks.barrier()
    manifests = {
        name: verify_manifest(  # 100,000 shards are looked at once a node, not once a rank
            Path(stream.local), shards_are_local=stream.remote is None and ranks.is_node_leader
        )
        for name, stream in config.data.streams.items()
    }
    _check_streams(config, manifests, ranks.num_nodes, say)
    if config.data.verify == "all" and ranks.is_node_leader:
        _hash_all(config, manifests, say)
    ranks.barrier()  # what only the first rank of a node has looked at
    return PreparedData(dict(config.data.streams), manifests, config.data.verify)


def _check_streams(config: Config, manifests: dict[str, Manifest], num_nodes: int, say: Callable[[str], None]) -> None:
    """Check what manifests and config say of each other."""
    _check_tokenizer(config, manifests)
    for phase_name, phase in config.phases.items():
        for stream_name in phase.streams:
            for line in _check_phase(config, phase_name, phase, stream_name, manifests[stream_name]):
                say(f"note: {line}")
        for line in check_cache_limit(config, phase_name, phase, manifests, num_nodes):
            say(f"note: {line}")
    for stream_name in config.eval.streams:
        if blocks_of(stream_name, manifests[stream_name], config.eval.max_seq_len, "val").num_blocks == 0:
            raise DataError(f"stream {stream_name!r} has no validation blocks", "prepare it with val_fraction above 0")


def _prepare_bundled(config: Config) -> None:
    streams = config.data.streams
    roots = {Path(stream.local).parent for stream in streams.values()}
    has_remote = any(stream.remote for stream in streams.values())
    names_differ = any(Path(stream.local).name != name for name, stream in streams.items())
    if len(roots) > 1 or names_differ or has_remote or set(streams) != set(STREAMS):
        listed = ", ".join(f"{name}={stream.remote or stream.local}" for name, stream in streams.items())
        raise DataError(
            f"data.prepare_bundled=true prepares <folder>/{{{','.join(STREAMS)}}}, but data.streams are {listed}",
            "set data.prepare_bundled=false to train on data of your own",
        )
    caps = {phase.max_seq_len for phase in config.phases.values()} | {config.eval.max_seq_len}
    prepare_bundled(roots.pop(), config.data.block_tokens, tuple(sorted(caps)), config.model.vocab_size)


def _check_tokenizer(config: Config, manifests: dict[str, Manifest]) -> None:
    hashes = {name: manifest.tokenizer_sha256 for name, manifest in manifests.items()}
    if config.data.tokenizer is not None:
        path = Path(config.data.tokenizer)
        if not path.is_file():
            raise DataError(
                f"data.tokenizer={path} does not exist", "give the tokenizer.json the shards were made with"
            )
        hashes["data.tokenizer"] = sha256_of_file(path)
    if len(set(hashes.values())) > 1:
        listed = ", ".join(f"{name}: {digest[:12]}" for name, digest in hashes.items())
        raise DataError(
            f"the tokenizers differ ({listed})",
            "prepare all streams with one tokenizer.json, and give that one as data.tokenizer",
        )
    load_tokenizer(Path(next(iter(config.data.streams.values())).local) / "tokenizer.json")
    for name, manifest in manifests.items():
        if manifest.vocab_size > config.model.vocab_size:
            raise DataError(
                f"stream {name!r} has ids up to {manifest.vocab_size - 1}, model.vocab_size={config.model.vocab_size}",
                f"set model.vocab_size={-(-manifest.vocab_size // 64) * 64}",
            )
        if manifest.block_tokens != config.data.block_tokens:
            raise DataError(
                f"stream {name!r} has blocks of {manifest.block_tokens} tokens, "
                f"data.block_tokens={config.data.block_tokens}",
                f"set data.block_tokens={manifest.block_tokens}, or prepare the stream anew",
            )


def _check_phase(
    config: Config, phase_name: str, phase: PhaseConfig, stream_name: str, manifest: Manifest
) -> list[str]:
    """Refuse a phase whose cap is long and whose documents are not; return warnings about fill."""
    blocks = blocks_of(stream_name, manifest, phase.max_seq_len, "train")
    if blocks.num_blocks == 0:
        raise DataError(
            f"stream {stream_name!r} of phase {phase_name!r} has no training blocks", "prepare it from more text"
        )
    if phase.max_seq_len > LONG_PHASE_TOKENS and not phase.allow_short_documents:
        share = blocks.segment_token_share_over[str(LONG_PHASE_TOKENS)]
        if share < _MIN_LONG_SHARE:
            raise DataError(
                f"phase {phase_name!r} has max_seq_len={phase.max_seq_len}, but only {share:.2%} of stream "
                f"{stream_name!r} lies in documents longer than {LONG_PHASE_TOKENS} tokens: too little",
                f"add a stream of long documents, or set phases.{phase_name}.allow_short_documents=true",
            )
    if blocks.fill < MIN_FILL:
        return [
            f"stream {stream_name!r} at {phase.max_seq_len} fills its blocks to {blocks.fill:.1%} only; "
            f"prepare it from {fill_remedy(blocks)} (now {config.data.block_tokens})"
        ]
    return []


def _hash_all(config: Config, manifests: dict[str, Manifest], say: Callable[[str], None]) -> None:
    """Compare the hashes of all shards that are on this node, with progress on the first one."""
    console = Console(quiet=os.environ.get("RANK", "0") != "0")
    begin_s, num_bytes = time.monotonic(), 0
    for is_remote in (False, True):
        splits = [
            packed_split(name, config.data.streams[name], manifests[name], max_seq_len, split)
            for name, max_seq_len, split in used_splits(config)
            if (config.data.streams[name].remote is not None) == is_remote
        ]
        num_bytes += hash_shards(splits, console, must_exist=not is_remote)
    duration_s = time.monotonic() - begin_s
    speed = num_bytes / max(duration_s, 1e-6) / 1e9
    say(f"verified {num_bytes / 1e9:.3g} GB of shards by hash in {duration_s:.0f} s ({speed:.2g} GB/s)")
