"""The configuration and data of the chaos bench, prepared once."""

from pathlib import Path

import pytest

from padless.bench.chaos import chaos_moments, prepared_arguments
from padless.bench.corpus import prepare_small


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    return prepare_small(tmp_path_factory.mktemp("bench") / "prepared")


@pytest.fixture(scope="session")
def moments(data):
    return chaos_moments(prepared_arguments(data))
