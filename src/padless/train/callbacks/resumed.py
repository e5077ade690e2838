"""Say where a run went on, and how long it took to its first batch."""

import time
from collections.abc import Callable

from composer.core import Callback, State
from composer.loggers import Logger


class AnnounceResume(Callback):
    """Prints one line when the first batch after a resume is in hand.

    Args:
        line: what was resumed, and from which file.
        began_s: ``time.perf_counter()`` when the run began.
        say: prints one line.
    """

    def __init__(self, line: str, began_s: float, say: Callable[[str], None]) -> None:
        self._line: str | None = line
        self._began_s, self._say = began_s, say

    def after_dataloader(self, state: State, logger: Logger) -> None:  # noqa: ARG002  (Composer's signature)
        """Print once."""
        if self._line is not None:
            self._say(f"{self._line}; first batch after {time.perf_counter() - self._began_s:.2f} s")
            self._line = None
