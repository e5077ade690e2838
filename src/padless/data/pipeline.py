"""The datatrove pipeline from documents to tokens: one task an input slice, restarted where it is missing.

    ReadDocuments -> WriteTokens       on datatrove's LocalPipelineExecutor

Task t of n takes the files t, t + n, t + 2n ... A task is done when datatrove has marked it and its summary is there.
"""

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document as TroveDocument
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.logging import logger

from padless.data.documents import Document, InputFile, Meter, read_documents
from padless.data.progress import Progress
from padless.data.token_store import TaskWriter, is_complete, task_path
from padless.data.tokenise import Tokeniser
from padless.processes import die_with

logger.disable(
    "datatrove"
)  # it prints the traceback of every error, in every worker; ours are raised again and told once

BATCH_CHARACTERS = 4 << 20
MAX_TASKS = 1024
REPORT_EVERY_S = 0.5


class ReadDocuments(PipelineStep):
    """Yields the documents of a task's files.

    Args:
        files: of the whole input.
        text_key: key or column of the text.
        meter: shared with the step that reports progress.
    """

    name = "documents"
    type = "READER"

    def __init__(self, files: list[InputFile], text_key: str, meter: Meter) -> None:
        super().__init__()
        self.files, self.text_key, self.meter = files, text_key, meter

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[TroveDocument]:
        """Yield the documents of task ``rank`` of ``world_size``."""
        if data:
            yield from data
        for file in self.files[rank::world_size]:
            for document in read_documents(file, self.text_key, self.meter):
                yield TroveDocument(text=document.text, id=document.id, metadata={"source": document.source})


class WriteTokens(PipelineStep):
    """Tokenises documents in batches and writes the files of the task.

    Args:
        folder: ``tokens/``.
        tokenizer: tokenizer.json.
        dtype: of the tokens on disk.
        val_fraction: share of documents for validation.
        fast: use gigatoken where it can be.
        meter: how far the reader is.
    """

    name = "tokens"
    type = "WRITER"

    def __init__(
        self, folder: Path, tokenizer: Path, dtype: str, val_fraction: float, *, fast: bool, meter: Meter
    ) -> None:
        super().__init__()
        self.folder, self.tokenizer, self.dtype = folder, tokenizer, dtype
        self.val_fraction, self.fast, self.meter = val_fraction, fast, meter
        self.main_process = os.getpid()

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:  # noqa: ARG002 - datatrove's signature
        """Consume the documents of task ``rank``."""
        if os.getpid() != self.main_process:
            die_with(os.getppid())  # an orphan would write beside the preparation that goes on
        tokeniser = Tokeniser(self.tokenizer, fast=self.fast)
        reported_s = 0.0
        with TaskWriter(self.folder, rank, self.dtype, self.val_fraction) as writer:
            for batch in _batches(data):
                full = [document for document in batch if document.text.strip()]
                writer.summary.empty_documents += len(batch) - len(full)
                tokens = tokeniser.encode([document.text for document in full], [document.id for document in full])
                for document, tokens_of_document in zip(full, tokens, strict=True):
                    writer.add(document, tokens_of_document)
                if time.monotonic() - reported_s > REPORT_EVERY_S:
                    reported_s = time.monotonic()
                    _report(self.folder, rank, self.meter, writer)
            writer.summary.not_fast_documents = sum(writer.summary.documents.values()) - tokeniser.num_fast
            writer.summary.checked_documents = tokeniser.num_checked
        task_path(self.folder, rank, "progress").unlink(missing_ok=True)


def _batches(data: Iterable[TroveDocument]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in data:
        batch.append(Document(document.text, str(document.id), str(document.metadata["source"])))
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _report(folder: Path, task: int, meter: Meter, writer: TaskWriter) -> None:
    figures = {"bytes": meter.read_bytes, "tokens": sum(writer.summary.tokens.values())}
    partial = task_path(folder, task, "progress.partial")
    partial.write_text(json.dumps(figures))
    partial.replace(task_path(folder, task, "progress"))


def num_tasks_for(num_files: int) -> int:
    """Return how many tasks an input is cut into: a file each, up to 1024."""
    return min(num_files, MAX_TASKS)


def tokenise_files(
    folder: Path,
    files: list[InputFile],
    *,
    text_key: str,
    tokenizer: Path,
    dtype: str,
    val_fraction: float,
    fast: bool,
    workers: int,
    progress: Progress,
) -> None:
    """Tokenise all files into ``folder``; what is complete already is left alone.

    Args:
        folder: ``tokens/`` of a prepared folder.
        files: the whole input, always in the same order.
        text_key: key or column of the text.
        tokenizer: tokenizer.json.
        dtype: "uint16" or "uint32".
        val_fraction: share of documents for validation.
        fast: use gigatoken where it can be.
        workers: processes; 1 works in this one.
        progress: is told how far it is, in bytes of input.

    Raises:
        DataError: an input file is broken (see ``documents`` and ``tokenise``).
    """
    tasks = num_tasks_for(len(files))
    log = folder / "log"
    for task in range(tasks):
        if not is_complete(folder, task):
            (log / "completions" / f"{task:05d}").unlink(missing_ok=True)
    meter = Meter()
    executor = LocalPipelineExecutor(
        pipeline=[
            ReadDocuments(files, text_key, meter),
            WriteTokens(folder, tokenizer, dtype, val_fraction, fast=fast, meter=meter),
        ],
        tasks=tasks,
        workers=min(workers, tasks),
        logging_dir=str(log),
    )
    watch = _Watch(folder, files, tasks, progress)
    with watch:
        executor.run()


class _Watch:
    """A thread that tells the progress of the tasks, which run in other processes, from their files."""

    def __init__(self, folder: Path, files: list[InputFile], tasks: int, progress: Progress) -> None:
        self._folder, self._progress, self._tasks = folder, progress, tasks
        self._task_bytes = [sum(file.num_bytes for file in files[task::tasks]) for task in range(tasks)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(REPORT_EVERY_S):
            self._progress.show(sum(self._read_bytes(task) for task in range(self._tasks)))

    def _read_bytes(self, task: int) -> float:
        if is_complete(self._folder, task):
            return self._task_bytes[task]
        try:
            return json.loads(task_path(self._folder, task, "progress").read_bytes())["bytes"]
        except (FileNotFoundError, ValueError):
            return 0.0
