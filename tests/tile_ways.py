"""Tests that hold with and without tile registers: where the machine has them, both ways are run."""

import pytest

from padless.kernels import tiles

WAYS = ("tiles", "without tiles")


def take_way(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take one of WAYS; skip what this machine does not have."""
    if way == "without tiles":
        monkeypatch.setattr(tiles, "has_tiles", lambda: False)
    elif not tiles.has_tiles():
        pytest.skip("this CPU has no tile registers (AMX)")
