"""Files stay small enough to read at once."""

from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize(
    ("pattern", "most_lines"), [("src/**/*.py", 400), ("data_prep/*.py", 60), ("train.py", 40), ("tests/**/*.py", 400)]
)
def test_no_file_grows_past_its_limit(pattern, most_lines):
    paths = list(REPO.glob(pattern))
    assert paths
    assert {str(path): lines(path) for path in paths if lines(path) > most_lines} == {}
