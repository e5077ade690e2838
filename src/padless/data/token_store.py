"""Tokenised documents on disk, kept so that another max_seq_len needs no new tokenising.

One task writes four files, the summary last; a task without a summary has not happened.

    tokens/00003.tokens                content tokens of all documents, one after the other; little-endian
    tokens/00003.documents.npy         one entry a document: tokens, is_val
    tokens/00003.documents.jsonl.zst   one line a document: id, source, split, tokens
    tokens/00003.json                  TaskSummary
"""

import hashlib
import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import orjson
import zstandard
from numpy.typing import NDArray

from padless.data.documents import Document
from padless.data.durable import durable_file, write_durably
from padless.errors import DataError

DOCUMENT_DTYPE = np.dtype([("tokens", "<i8"), ("is_val", "?")])
SPLITS = ("train", "val")
SPLIT_SALT = b"padless validation 1\n"


@dataclass
class TaskSummary:
    """What one task found; tokens are content tokens without specials."""

    documents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    empty_documents: int = 0
    not_fast_documents: int = 0  # tokenised by `tokenizers`
    checked_documents: int = 0  # tokenised by both
    sources: dict[str, int] = field(default_factory=dict)  # documents
    sha256: str = ""  # of tokens and of which documents they are


def split_place(text: str) -> int:
    """Return where a text lies in 0..2**64, by its hash; those below ``val_fraction * 2**64`` are for validation."""
    return int.from_bytes(hashlib.sha256(SPLIT_SALT + text.encode("utf-8")).digest()[:8])


def is_validation(text: str, val_fraction: float) -> bool:
    """Whether a text belongs to the validation split: by its own hash, so that copies of a text are never in both."""
    return split_place(text) < val_fraction * 2**64


def task_path(folder: Path, task: int, suffix: str) -> Path:
    """Return the path of one of a task's files."""
    return folder / f"{task:05d}.{suffix}"


def is_complete(folder: Path, task: int) -> bool:
    """Whether a task has finished."""
    return task_path(folder, task, "json").is_file()


class TaskWriter:
    """Writes the files of one task; use as a context manager. They exist only if the body did not raise.

    Args:
        folder: ``tokens/`` of a prepared folder.
        task: number of the task.
        dtype: "uint16" or "uint32".
        val_fraction: share of documents for validation.
    """

    def __init__(self, folder: Path, task: int, dtype: str, val_fraction: float) -> None:
        self.summary = TaskSummary()
        self._folder, self._task = folder, task
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._val_fraction = val_fraction
        self._sources: Counter[str] = Counter()
        self._entries: list[tuple[int, bool]] = []
        self._hash = hashlib.sha256()
        self._stack = ExitStack()

    def __enter__(self) -> "TaskWriter":
        tokens = durable_file(task_path(self._folder, self._task, "tokens"))
        lines = durable_file(task_path(self._folder, self._task, "documents.jsonl.zst"))
        self._tokens = self._stack.enter_context(tokens)
        file = self._stack.enter_context(lines)
        self._lines = self._stack.enter_context(zstandard.ZstdCompressor().stream_writer(file, closefd=False))
        return self

    def add(self, document: Document, tokens: NDArray[np.uint32]) -> None:
        """Append one document that is not empty."""
        is_val = is_validation(document.text, self._val_fraction)
        split = SPLITS[is_val]
        content = tokens.astype(self._dtype).tobytes()
        self._tokens.write(content)
        self._hash.update(f"{split} {tokens.size}\n".encode() + content)
        self._entries.append((tokens.size, is_val))
        line = {"id": document.id, "source": document.source, "split": split, "tokens": tokens.size}
        self._lines.write(orjson.dumps(line) + b"\n")
        self.summary.documents[split] += 1
        self.summary.tokens[split] += tokens.size
        self._sources[document.source] += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._stack.__exit__(kind, error, None)
        if kind is not None:
            return
        with durable_file(task_path(self._folder, self._task, "documents.npy")) as file:
            np.save(file, np.array(self._entries, dtype=DOCUMENT_DTYPE), allow_pickle=False)
        self.summary.sources = dict(sorted(self._sources.items()))
        self.summary.sha256 = self._hash.hexdigest()
        write_durably(task_path(self._folder, self._task, "json"), json.dumps(asdict(self.summary)).encode())


class TokenStore:
    """All documents of a prepared folder, in the order of tasks.

    Args:
        folder: ``tokens/``.
        num_tasks: all of them must be complete.
        dtype: of the token files.

    Raises:
        DataError: a file is missing, or its size is not what its documents add up to.
    """

    def __init__(self, folder: Path, num_tasks: int, dtype: str) -> None:
        self.summaries = [_read_summary(folder, task) for task in range(num_tasks)]
        self._documents = [
            np.load(task_path(folder, task, "documents.npy"), allow_pickle=False) for task in range(num_tasks)
        ]
        self._tokens: list[NDArray[np.unsignedinteger]] = []
        for task, documents in enumerate(self._documents):
            path = task_path(folder, task, "tokens")
            expected = int(documents["tokens"].sum()) * np.dtype(dtype).itemsize
            if path.stat().st_size != expected:
                raise DataError(
                    f"{path} is {path.stat().st_size:_} bytes, its documents add up to {expected:_}",
                    "delete the prepared folder and run the preparation again",
                )
            mapped = np.memmap(path, np.dtype(dtype).newbyteorder("<"), "r") if expected else np.empty(0, dtype)
            self._tokens.append(np.asarray(mapped))  # a plain array: slices of a memmap cost ten times as much
        counts = [documents.size for documents in self._documents]
        self._task_D = np.repeat(np.arange(num_tasks, dtype=np.int32), counts)
        starts = [np.cumsum(documents["tokens"]) - documents["tokens"] for documents in self._documents]
        self._start_D = np.concatenate([*starts, np.empty(0, np.int64)]).astype(np.int64)
        all_documents = np.concatenate([*self._documents, np.empty(0, DOCUMENT_DTYPE)])
        self.tokens_D: NDArray[np.int64] = all_documents["tokens"].astype(np.int64)
        self.is_val_D: NDArray[np.bool_] = all_documents["is_val"]

    def content(self, document: int, start: int, num_tokens: int) -> NDArray[np.unsignedinteger]:
        """Return ``num_tokens`` tokens of a document from ``start`` on."""
        first = int(self._start_D[document]) + start
        return self._tokens[self._task_D[document]][first : first + num_tokens]

    def sha256(self) -> str:
        """Return a hash of all tokens, their borders, splits and order."""
        return hashlib.sha256("\n".join(summary.sha256 for summary in self.summaries).encode()).hexdigest()

    def document_counts(self) -> dict[str, int]:
        """Return documents by split, and how many were skipped as empty, tokenised slowly and checked."""
        return {
            **{split: sum(summary.documents[split] for summary in self.summaries) for split in SPLITS},
            "empty": sum(summary.empty_documents for summary in self.summaries),
            "by_tokenizers_only": sum(summary.not_fast_documents for summary in self.summaries),
            "checked_by_both": sum(summary.checked_documents for summary in self.summaries),
        }

    def token_counts(self) -> dict[str, int]:
        """Return content tokens by split."""
        return {split: sum(summary.tokens[split] for summary in self.summaries) for split in SPLITS}

    def source_counts(self, max_sources: int) -> dict[str, int]:
        """Return documents by source, most frequent first; what is past ``max_sources`` is summed as "(others)"."""
        counter: Counter[str] = Counter()
        for summary in self.summaries:
            counter.update(summary.sources)
        ranked = sorted(counter.items(), key=lambda entry: (-entry[1], entry[0]))
        others = sum(count for _, count in ranked[max_sources:])
        return dict(ranked[:max_sources]) | ({"(others)": others} if others else {})

    def length_histogram(self) -> dict[str, int]:
        """Return documents by content tokens; a key is the upper bound of its bin, a power of two."""
        exponent_D = np.ceil(np.log2(np.maximum(1, self.tokens_D))).astype(np.int64)
        counts = np.bincount(exponent_D)
        return {str(2**exponent): int(count) for exponent, count in enumerate(counts) if count}


def _read_summary(folder: Path, task: int) -> TaskSummary:
    return TaskSummary(**json.loads(task_path(folder, task, "json").read_bytes()))
