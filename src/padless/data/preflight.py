"""Open the prepared streams of a run and refuse, in the first seconds, what would fail or mislead later.

Looked at: manifests and shards are whole, all streams share one tokenizer and it is the expected one, the vocabulary is
the model's, blocks exist for every phase's cap, a long phase has long documents, blocks are well filled.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from padless.config.check_phase import LONG_PHASE_TOKENS
from padless.config.schema import Config, EvalConfig, PhaseConfig, StreamConfig
from padless.data.bundled import STREAMS, prepare_bundled
from padless.data.collate import Block
from padless.data.durable import sha256_of_file
from padless.data.manifest import Manifest, SplitBlocks, read_manifest, verify_manifest
from padless.data.mds import StreamSource, ValidationBlocks, fetch, fetch_split
from padless.data.summary import MIN_FILL
from padless.errors import DataError

_MIN_LONG_SHARE = 0.01
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_SENTENCE_TOKENS = (12, 28)


@dataclass(frozen=True)
class PreparedData:
    """Verified streams of a run."""

    streams: dict[str, StreamConfig]
    manifests: dict[str, Manifest]

    @property
    def _any(self) -> Manifest:
        return next(iter(self.manifests.values()))

    @property
    def pad_id(self) -> int:
        """Id of [PAD], which filler is made of."""
        return self._any.special_ids["pad"]

    @property
    def mask_id(self) -> int:
        """Id of [MASK]."""
        return self._any.special_ids["mask"]

    @property
    def special_ids(self) -> list[int]:
        """Ids that are never masked and never drawn."""
        return list(self._any.all_special_ids)

    @property
    def tokenizer_folder(self) -> Path:
        """Folder with tokenizer.json and its settings."""
        return Path(next(iter(self.streams.values())).local)

    @property
    def tokenizer_sha256(self) -> str:
        """Hash of tokenizer.json."""
        return self._any.tokenizer_sha256

    @property
    def hashes(self) -> dict[str, str]:
        """Hash of each stream's blocks: another preparation of the same text gives another hash."""
        return {
            name: hashlib.sha256(json.dumps(manifest.identity(), sort_keys=True).encode()).hexdigest()[:16]
            for name, manifest in self.manifests.items()
        }

    def _split(self, name: str, max_seq_len: int, split: str) -> tuple[Path, str | None, int]:
        stream, blocks = self.streams[name], _blocks_of(name, self.manifests[name], max_seq_len, split)
        remote = f"{stream.remote}/{blocks.path}" if stream.remote else None
        return Path(stream.local) / blocks.path, remote, blocks.num_blocks

    def train_sources(self, phase: PhaseConfig) -> list[StreamSource]:
        """Return the training streams of a phase with their proportions."""
        sources = []
        for name, proportion in phase.streams.items():
            local, remote, num_blocks = self._split(name, phase.max_seq_len, "train")
            sources.append(StreamSource(name, local, remote, proportion, num_blocks))
        return sources

    def validation_splits(self, evaluation: EvalConfig) -> list[ValidationBlocks]:
        """Return the validation blocks of the streams that evaluation names."""
        splits = []
        for name in evaluation.streams:
            local, _, _ = self._split(name, evaluation.max_seq_len, "val")
            splits.append(ValidationBlocks(name, local))
        return splits

    def sample_training_blocks(self, phase: PhaseConfig, max_blocks: int) -> list[Block]:
        """Return up to ``max_blocks`` training blocks of a phase that lie on local disk."""
        blocks: list[Block] = []
        for source in self.train_sources(phase):
            if source.remote is None:
                split = ValidationBlocks(source.name, source.local)
                blocks += [split[index] for index in range(min(len(split), max_blocks - len(blocks)))]
        return blocks

    def sample_passages(self, evaluation: EvalConfig, count: int) -> list[tuple[str, str]]:
        """Return ``count`` passages of validation text with one word replaced by [MASK], and the word."""
        tokenizer = Tokenizer.from_file(str(self.tokenizer_folder / "tokenizer.json"))
        low, high = _SENTENCE_TOKENS
        passages: list[tuple[str, str]] = []
        splits = self.validation_splits(evaluation)
        number = 0
        while splits and len(passages) < count and number < 50 * count:
            split = splits[number % len(splits)]
            block = split[(7 * number) % len(split)]
            number += 1
            ids = block.tokens_T[1 : int(block.lengths_S[0]) - 1].tolist()
            begin = _word_place(tokenizer, ids, 0)
            ids = ids[begin or 0 :][:high]
            place = _word_place(tokenizer, ids, low // 2)
            if begin is None or len(ids) < low or place is None:
                continue
            before, word, after = (tokenizer.decode(part) for part in (ids[:place], [ids[place]], ids[place + 1 :]))
            passages.append((" ".join(f"{before} [MASK]{after}".split()), word.strip()))
        return passages


def _word_place(tokenizer: Tokenizer, ids: list[int], begin: int) -> int | None:
    """Return the first place from ``begin`` on whose token is a whole word of letters, and is not cut by the next."""
    for place in range(begin, len(ids) - 1):
        here, after = tokenizer.decode([ids[place]]), tokenizer.decode([ids[place + 1]])
        if len(here) >= 3 and here[0] == " " and here[1:].isalpha() and not after[:1].isalpha():
            return place
    return None


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
    if ranks.is_leader and config.data.prepare_bundled:
        _prepare_bundled(config)
    if ranks.is_node_leader:
        for name, stream in config.data.streams.items():
            _fetch_small_files(stream, config.eval.max_seq_len if name in config.eval.streams else None)
    ranks.barrier()
    manifests = {
        name: verify_manifest(Path(stream.local), shards_are_local=stream.remote is None)
        for name, stream in config.data.streams.items()
    }
    _check_tokenizer(config, manifests)
    for phase_name, phase in config.phases.items():
        for stream_name in phase.streams:
            for line in _check_phase(config, phase_name, phase, stream_name, manifests[stream_name]):
                say(f"note: {line}")
    for stream_name in config.eval.streams:
        if _blocks_of(stream_name, manifests[stream_name], config.eval.max_seq_len, "val").num_blocks == 0:
            raise DataError(f"stream {stream_name!r} has no validation blocks", "prepare it with val_fraction above 0")
    return PreparedData(dict(config.data.streams), manifests)


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


def _fetch_small_files(stream: StreamConfig, validation_max_seq_len: int | None) -> None:
    """Fetch a remote stream's manifest, tokenizer and validation split into its cache, once a node."""
    if stream.remote is None:
        return
    local = Path(stream.local)
    for name in (*TOKENIZER_FILES, "manifest.json"):
        if not (local / name).exists():
            fetch(f"{stream.remote}/{name}", local / name)
    if validation_max_seq_len is not None:
        blocks = read_manifest(local).split(validation_max_seq_len, "val")
        if blocks.num_blocks > 0:
            fetch_split(f"{stream.remote}/{blocks.path}", local / blocks.path)


def _blocks_of(stream_name: str, manifest: Manifest, max_seq_len: int, split: str) -> SplitBlocks:
    try:
        return manifest.split(max_seq_len, split)
    except DataError as error:
        raise DataError(f"stream {stream_name!r} is {error.cause}", error.remedy) from None


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
    blocks = _blocks_of(stream_name, manifest, phase.max_seq_len, "train")
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
            f"prepare it with larger block_tokens (now {config.data.block_tokens}) or from more text"
        ]
    return []
