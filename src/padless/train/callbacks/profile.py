"""A trace of some steps on demand (``run.profile_steps``), by torch's profiler, into ``<run>/profile/``.

The trace is a Chrome JSON for Perfetto or ``chrome://tracing``; beside it lies a table of the operators that took most
time. It records once in each start of the process, on the first rank, and changes nothing that is computed.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from torch.profiler import ProfilerActivity, profile

from padless.train.callbacks.record import step_number

_ROWS = 40


class ProfileSteps(Callback):
    """Records steps, once. One object serves all phases of a run; a phase that ends ends the recording.

    Args:
        folder: of the run.
        from_step: steps of this process before the first that is recorded.
        steps: how many are recorded.
        say: prints one line.
    """

    def __init__(self, folder: Path, from_step: int, steps: int, say: Callable[[str], None]) -> None:
        self._folder, self._from_step, self._steps, self._say = folder / "profile", from_step, steps, say
        self._begun = self._recorded = 0
        self._profile: profile | None = None

    def before_dataloader(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Begin to record if the step that is about to begin is the first to be."""
        if self._begun == self._from_step:
            self._profile = profile(activities=_activities())
            self._profile.start()
        self._begun += 1

    def batch_end(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Count the step, and write if it was the last."""
        if self._profile is None:
            return
        self._recorded += 1
        if self._recorded == self._steps:
            self._write(state)

    def fit_end(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Write what there is, if the phase ended in the middle."""
        if self._profile is not None and self._recorded:
            self._write(state)

    def close(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Leave no recording running behind a phase that failed."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None

    def _write(self, state: State) -> None:
        recorded, self._profile = self._profile, None
        if recorded is None:
            return
        recorded.stop()
        last = step_number(state)
        name = f"steps-{last - self._recorded + 1}-{last}"
        self._folder.mkdir(parents=True, exist_ok=True)
        recorded.export_chrome_trace(str(self._folder / f"{name}.json"))
        order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = recorded.key_averages().table(sort_by=order, row_limit=_ROWS, max_name_column_width=60)
        (self._folder / f"{name}.txt").write_text(table + "\n", encoding="utf-8")
        self._say(f"profile of {self._recorded} steps: {self._folder / name}.json (Perfetto), .txt (top operators)")


def _activities() -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
