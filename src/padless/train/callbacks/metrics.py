"""One line a step in ``metrics.jsonl``, and the same figures to Composer's loggers (TensorBoard, wandb)."""

import json
import time
from pathlib import Path
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger

from padless.data.durable import write_durably
from padless.data.loader import StepLoader
from padless.train.callbacks.record import StepRecord, clock_tokens, step_number


class MetricsFile:
    """Append-only JSON lines, keyed by the clock.

    Args:
        path: the file.
        enabled: whether this rank writes.
    """

    def __init__(self, path: Path, enabled: bool) -> None:
        self._path, self._enabled = path, enabled

    def rewind(self, to_clock_tokens: int) -> None:
        """Drop lines after a clock, and a last line that a kill cut off: the run goes on from there."""
        if not self._enabled or not self._path.exists():
            return
        kept = [line for line in read_metrics(self._path) if line["tokens"] <= to_clock_tokens]
        write_durably(self._path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def append(self, line: dict[str, Any]) -> None:
        """Add one line."""
        if self._enabled:
            with self._path.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(line) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return all whole lines of a metrics file."""
    lines = []
    for text in path.read_text(encoding="utf-8").split("\n"):
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


class LogMetrics(Callback):
    """Writes the figures of each step.

    Args:
        record: the step record.
        loader: names and counts the blocks of the step.
        metrics: the file.
        every_steps: loggers other than the file get every so many steps.
    """

    def __init__(self, record: StepRecord, loader: StepLoader, metrics: MetricsFile, every_steps: int) -> None:
        self._record, self._loader, self._metrics, self._every_steps = record, loader, metrics, every_steps
        self._last_end_s = 0.0

    def fit_start(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Start the watch."""
        self._last_end_s = time.perf_counter()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Write the step that has just ended."""
        settings, step_info = self._record.settings, self._loader.last_step
        if settings is None:
            raise RuntimeError("the batch-size warmup callback has to come before the metrics callback")
        now_s = time.perf_counter()
        seconds, self._last_end_s = now_s - self._last_end_s, now_s
        line = {
            "tokens": clock_tokens(state),
            "step": step_number(state),
            "phase": self._record.plan.name,
            "loss": float(state.total_loss_dict["loss/train/total"]),
            "grad_norm": self._record.grad_norm,
            "lr": settings.lr,
            "weight_decay": settings.weight_decay,
            "batch_blocks": settings.batch_blocks,
            "mask_rate": settings.mask_rate,
            "blocks": step_info.digest,
            "real_tokens": step_info.real_tokens,
            "real_tokens_per_s": round(step_info.real_tokens / seconds, 1),
            "data_wait_share": round(self._record.data_wait_s / seconds, 4),
            "seconds": round(seconds, 4),
        }
        self._metrics.append(line)
        if step_number(state) % self._every_steps == 0:
            logger.log_metrics(
                {f"padless/{key}": value for key, value in line.items() if isinstance(value, int | float)}
            )
