"""Makes ``runs`` importable and prepares the shared data once."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from runs import PREPARED

from padless.data.bundled import prepare_bundled


@pytest.fixture(scope="session", autouse=True)
def prepared() -> Path:
    """The bundled corpus as the smoke recipe reads it; prepared by the first test that needs it, kept for later."""
    prepare_bundled(PREPARED, 256, (64, 256), 2048)
    return PREPARED
