"""The verified streams of a run, and what each part of it reads of them."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from padless.config.schema import Config, EvalConfig, PhaseConfig, StreamConfig
from padless.data.collate import Block
from padless.data.manifest import Manifest, SplitBlocks
from padless.data.mds import StreamSource, ValidationBlocks
from padless.data.shard_check import PackedSplit
from padless.errors import DataError

_SENTENCE_TOKENS = (12, 28)


def blocks_of(stream_name: str, manifest: Manifest, max_seq_len: int, split: str) -> SplitBlocks:
    """Return what a manifest says of one split.

    Raises:
        DataError: it has none for this max_seq_len; names the stream.
    """
    try:
        return manifest.split(max_seq_len, split)
    except DataError as error:
        raise DataError(f"stream {stream_name!r} is {error.cause}", error.remedy) from None


def packed_split(name: str, stream: StreamConfig, manifest: Manifest, max_seq_len: int, split: str) -> PackedSplit:
    """Return what a reader of one split of a stream needs to know.

    Raises:
        DataError: the stream has none for this max_seq_len.
    """
    blocks_of(name, manifest, max_seq_len, split)  # names the stream where there are none
    return manifest.packed(name, Path(stream.local), max_seq_len, split)


def remote_of(stream: StreamConfig, manifest: Manifest, max_seq_len: int, split: str) -> str | None:
    """Return where a split lies on the stream's remote, if it has one."""
    return f"{stream.remote}/{manifest.split(max_seq_len, split).path}" if stream.remote else None


def used_splits(config: Config) -> list[tuple[str, int, str]]:
    """Return stream, max_seq_len and split of all that the run reads, each once."""
    used = [(name, phase.max_seq_len, "train") for phase in config.phases.values() for name in phase.streams]
    used += [(name, config.eval.max_seq_len, "val") for name in config.eval.streams]
    return list(dict.fromkeys(used))


@dataclass(frozen=True)
class PreparedData:
    """Verified streams of a run."""

    streams: dict[str, StreamConfig]
    manifests: dict[str, Manifest]
    verify: str  # data.verify

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

    def _hash_shards(self, name: str) -> bool:
        """Return whether a reader compares hashes; of a remote stream, most shards come after the start."""
        return self.verify == "first_read" or (self.verify == "all" and self.streams[name].remote is not None)

    def _split(self, name: str, max_seq_len: int, split: str) -> PackedSplit:
        return packed_split(name, self.streams[name], self.manifests[name], max_seq_len, split)

    def train_sources(self, phase: PhaseConfig) -> list[StreamSource]:
        """Return the training streams of a phase with their proportions."""
        return [
            StreamSource(
                self._split(name, phase.max_seq_len, "train"),
                remote_of(self.streams[name], self.manifests[name], phase.max_seq_len, "train"),
                proportion,
                self._hash_shards(name),
            )
            for name, proportion in phase.streams.items()
        ]

    def validation_splits(self, evaluation: EvalConfig) -> list[ValidationBlocks]:
        """Return the validation blocks of the streams that evaluation names.

        Raises:
            DataError: an index is not the manifest's.
        """
        return [
            ValidationBlocks(self._split(name, evaluation.max_seq_len, "val"), hash_shards=self._hash_shards(name))
            for name in evaluation.streams
        ]

    def sample_training_blocks(self, phase: PhaseConfig, max_blocks: int) -> list[Block]:
        """Return up to ``max_blocks`` training blocks of a phase that lie on local disk."""
        blocks: list[Block] = []
        for source in self.train_sources(phase):
            if source.remote is None:
                split = ValidationBlocks(source.split)
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
