"""Waiting for what another process does."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], within_s: float = 20) -> None:
    """Return once the condition holds; fail where it does not in time."""
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s, "not within the time"
        time.sleep(0.02)
