"""Progress in tokens with an ETA: a bar on a terminal, plain lines in a log file. Rank 0 only."""

import time

from composer.core import Callback, State
from composer.loggers import Logger
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from padless.data.loader import StepLoader
from padless.train.callbacks.record import StepRecord, clock_tokens, step_number
from padless.units import approximate_tokens

_LINE_EVERY_S = 10.0
_SMOOTHING = 0.9


class ShowProgress(Callback):
    """Shows phase, tokens, loss, learning rate and real tokens a second.

    Args:
        record: the step record.
        loader: counts the real tokens of the step.
        end_tokens: clock at which the run ends.
        console: where to print.
    """

    def __init__(self, record: StepRecord, loader: StepLoader, end_tokens: int, console: Console) -> None:
        self._record, self._loader, self._end_tokens, self._console = record, loader, end_tokens, console
        self._bar: Progress | None = None
        self._loss: float | None = None
        self._last_s = self._began_s = self._printed_s = 0.0
        self._real_tokens = self._began_tokens = 0

    def fit_start(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Start bar and watch."""
        self._began_s = self._printed_s = time.perf_counter()
        self._began_tokens = clock_tokens(state)
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"))
            self._bar = Progress(
                *columns, TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), console=self._console
            )
            self._bar.add_task(self._record.plan.name, total=self._end_tokens, completed=self._began_tokens, figures="")
            self._bar.start()

    def batch_end(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Show the step that has just ended."""
        loss = self._record.loss
        if self._record.problem is None:  # a bad step would stay in the mean for good
            self._loss = loss if self._loss is None else _SMOOTHING * self._loss + (1 - _SMOOTHING) * loss
        self._real_tokens += self._loader.last_step.real_tokens
        now_s = time.perf_counter()
        rate = self._real_tokens / (now_s - self._began_s)
        settings = self._record.settings
        shown = loss if self._loss is None else self._loss
        figures = (
            f"{approximate_tokens(clock_tokens(state))}/{approximate_tokens(self._end_tokens)} tokens  "
            f"loss {shown:.3f}  lr {settings.lr if settings else 0.0:.2e}  {approximate_tokens(rate)} tokens/s"
        )
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=clock_tokens(state), figures=figures)
        elif now_s - self._printed_s >= _LINE_EVERY_S:
            self._printed_s = now_s
            self._console.print(
                f"[{self._record.plan.name}] step {step_number(state)}  {figures}  ETA {self._eta(state, now_s)}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def _eta(self, state: State, now_s: float) -> str:
        done = clock_tokens(state) - self._began_tokens
        seconds = (now_s - self._began_s) * (self._end_tokens - clock_tokens(state)) / max(1, done)
        hours, minutes = divmod(int(seconds) // 60, 60)
        return f"{hours}:{minutes:02d}:{int(seconds) % 60:02d}"

    def fit_end(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Stop the bar."""
        self.stop()

    def stop(self) -> None:
        """Take the bar off the terminal, also after an error."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
