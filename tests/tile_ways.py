"""Tests that hold with and without tile registers: where the machine has them, both ways are run."""

import pytest

from padless.kernels import tiled_attention
from padless.kernels.tiles import has_tiles

WAYS = ("tiles", "without tiles")


def take_way(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take one of WAYS; skip what this machine does not have."""
    if way == "without tiles":
        monkeypatch.setattr(tiled_attention, "has_tiles", lambda: False)
    elif not has_tiles():
        pytest.skip("this CPU has no tile registers (AMX)")
