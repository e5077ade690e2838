"""Makes ``shrink`` importable, and prepares the bundled corpus for the tests that train."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "end_to_end")]


@pytest.fixture(scope="session")
def prepared() -> Path:
    """The bundled corpus in blocks of 256 tokens, at lengths 64 and 256; prepared once, kept for later."""
    from runs import prepare_shared

    return prepare_shared()
