"""One line a step in ``metrics.jsonl``, and the same figures to Composer's loggers (TensorBoard, wandb)."""

import json
import math
import os
import time
from pathlib import Path
from typing import Any, BinaryIO

from composer.core import Callback, State
from composer.loggers import Logger

from padless.data.durable import append_line
from padless.data.json_file import read_lines
from padless.data.loader import StepLoader
from padless.errors import CheckpointError
from padless.train.callbacks.record import StepRecord, clock_tokens, step_number
from padless.train.throughput import Speedometer

_CHUNK_BYTES = 1 << 14


class MetricsFile:
    """Append-only JSON lines, keyed by the clock.

    Args:
        path: the file.
        enabled: whether this rank writes.
    """

    def __init__(self, path: Path, enabled: bool) -> None:
        self._path, self._enabled = path, enabled

    def rewind(self, to_clock_tokens: int) -> None:
        """Drop lines after a clock, and a last line that a kill cut off: the run goes on from there.

        Reads from the end, so that it takes no longer the further a run is.

        Raises:
            CheckpointError: the file cannot be read or written.
        """
        if not self._enabled or not self._path.exists():
            return
        try:
            self._truncate(to_clock_tokens)
        except OSError as error:
            raise CheckpointError(
                f"{self._path} cannot be written: {error.strerror}",
                "make it writable, or move it away",
            ) from error

    def _truncate(self, to_clock_tokens: int) -> None:
        with self._path.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            while end > 0:
                begin = _line_begin(file, end)
                file.seek(begin)
                if _clock_of(file.read(end - begin)) <= to_clock_tokens:
                    break
                end = begin
            file.truncate(end)
            os.fsync(file.fileno())

    def append(self, line: dict[str, Any]) -> None:
        """Add one line."""
        if self._enabled:
            append_line(self._path, json.dumps(line))


def _line_begin(file: BinaryIO, end: int) -> int:
    """Return where the line that ends before byte ``end`` begins; its newline, if it has one, is part of it."""
    begin = end - 1
    while begin > 0:
        chunk_begin = max(0, begin - _CHUNK_BYTES)
        file.seek(chunk_begin)
        newline = file.read(begin - chunk_begin).rfind(b"\n")
        if newline >= 0:
            return chunk_begin + newline + 1
        begin = chunk_begin
    return 0


def _clock_of(line: bytes) -> float:
    """Return the clock of a line; a line that is cut off is later than everything."""
    try:
        return json.loads(line)["tokens"] if line.endswith(b"\n") else math.inf
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return all whole lines of a metrics file; none where there is no file."""
    return list(read_lines(path))


class LogMetrics(Callback):
    """Writes the figures of each step.

    Args:
        record: the step record.
        loader: names and counts the blocks of the step.
        metrics: the file.
        every_steps: loggers other than the file get every so many steps.
        speed: measures a step's throughput.
    """

    def __init__(
        self, record: StepRecord, loader: StepLoader, metrics: MetricsFile, every_steps: int, speed: Speedometer
    ) -> None:
        self._record, self._loader, self._metrics, self._every_steps = record, loader, metrics, every_steps
        self._speed = speed
        self._last_end_s = self._last_end_cpu_s = self._began_s = 0.0

    def fit_start(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Start the watch."""
        self._last_end_s, self._last_end_cpu_s = time.perf_counter(), time.process_time()

    def before_dataloader(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Note when a step begins: validation and checkpoints before it are not its own."""
        self._began_s = time.perf_counter()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Write the step that has just ended."""
        settings, step_info = self._record.settings, self._loader.last_step
        if settings is None:
            raise RuntimeError("the batch-size warmup callback has to come before the metrics callback")
        now_s, now_cpu_s = time.perf_counter(), time.process_time()
        seconds, self._last_end_s = now_s - self._last_end_s, now_s
        cpu_seconds, self._last_end_cpu_s = now_cpu_s - self._last_end_cpu_s, now_cpu_s
        line = {
            "tokens": clock_tokens(state),
            "step": step_number(state),
            "phase": self._record.plan.name,
            "loss": _or_none(self._record.loss),
            "grad_norm": _or_none(self._record.grad_norm),
            "lr": settings.lr,
            "weight_decay": settings.weight_decay,
            "batch_blocks": settings.batch_blocks,
            "mask_rate": settings.mask_rate,
            "blocks": step_info.digest,
            "real_tokens": step_info.real_tokens,
            **self._speed.measure(step_info, settings.batch_blocks, self._record.data_wait_s, now_s - self._began_s),
            "seconds": round(seconds, 6),
            "cpu_seconds": round(cpu_seconds, 6),  # of this process, all threads
        }
        if self._record.stream_losses:
            line["loss_by_stream"] = {name: _or_none(loss) for name, loss in self._record.stream_losses.items()}
        if self._record.loss_scale is not None:
            line["loss_scale"] = self._record.loss_scale.factor
        if self._record.problem is not None:
            line["bad_step"] = self._record.problem
        self._metrics.append(line)
        if step_number(state) % self._every_steps == 0:
            logger.log_metrics(_numbers(line))


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    """Return what loggers draw as curves: numbers by name, losses of streams one by one."""
    flat = {**line, **{f"loss/{name}": loss for name, loss in line.get("loss_by_stream", {}).items()}}
    return {f"padless/{key}": value for key, value in flat.items() if isinstance(value, int | float)}


def _or_none(value: float) -> float | None:
    """Return what JSON can hold: None for a value that is not finite."""
    return value if math.isfinite(value) else None
