"""JSON files from a stranger: their size is looked at before they are read, and nesting cannot exhaust the stack.

Files of one object a line, which a run writes, may end in a line that a kill cut off: only whole ones are given.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from padless.errors import DataError

MAX_JSON_BYTES = 64 << 20  # a manifest or index; an index of 100,000 shards is about 50 MB
MAX_TOKENIZER_BYTES = 256 << 20  # a tokenizer.json; the largest in common use are below 40 MB


def refuse_large(path: Path, most_bytes: int) -> None:
    """Refuse a file that is larger than one of its kind can be.

    Raises:
        DataError: it has more than ``most_bytes``.
    """
    found = path.stat().st_size
    if found > most_bytes:
        raise DataError(
            f"{path} is {found:_} bytes, more than the {most_bytes:_} such a file may have",
            "look at where it comes from; prepare the folder again (data_prep/prepare.py)",
        )


def read_json(path: Path, most_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return what a JSON file holds.

    Raises:
        DataError: it is too large; nothing has been read then.
        ValueError: it is not JSON.
    """
    refuse_large(path, most_bytes)
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of a file of one JSON object a line, in order; none where there is no file."""
    if path.is_file():
        yield from parse_lines(path.read_text(encoding="utf-8", errors="replace"))


def parse_lines(text: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of a text that are whole JSON objects, in order."""
    return (line for line in map(parse_object, text.split("\n")) if line is not None)


def parse_object(text: str | bytes) -> dict[str, Any] | None:
    """Return the JSON object that one line holds; None for a line that is cut off or holds anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
