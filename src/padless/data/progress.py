"""Progress of long work with the time left: a bar on a terminal, a plain line now and then elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

PLAIN_EVERY_S = 10.0


class Progress:
    """Shows how much of ``total`` is done; use as a context manager.

    Args:
        console: where to.
        what: what is being done, such as "tokenising".
        total: amount at the end, in any unit.
    """

    def __init__(self, console: Console, what: str, total: float) -> None:
        self._console, self._what, self._total = console, what, max(total, 1)
        self._bar: RichProgress | None = None
        self._start_s = self._told_s = time.monotonic()

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            columns = (
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            self._bar = RichProgress(TextColumn(self._what), *columns, console=self._console, transient=True)
            self._task = self._bar.add_task(self._what, total=self._total)
            self._bar.start()
        return self

    def show(self, done: float) -> None:
        """Tell how much is done in all."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
            return
        now_s = time.monotonic()
        if now_s - self._told_s >= PLAIN_EVERY_S:
            self._told_s = now_s
            elapsed_s, share = now_s - self._start_s, min(1.0, done / self._total)
            left = f", about {elapsed_s / share - elapsed_s:.0f} s left" if share > 0 else ""
            self._console.print(f"{self._what}: {share:.0%} after {elapsed_s:.0f} s{left}", highlight=False)

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
