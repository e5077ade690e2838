"""Makes ``runs`` importable and prepares the shared data once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from runs import prepare_shared


@pytest.fixture(scope="session", autouse=True)
def prepared() -> Path:
    """The bundled corpus as the smoke recipe reads it; prepared by the first test that needs it, kept for later."""
    return prepare_shared()
