"""Which key or column of an input holds the documents, where the user has not said so."""

from collections.abc import Iterable
from pathlib import Path

from padless.data.documents import list_input, read_fields
from padless.errors import DataError

_USUAL = "text"
_LOOK_AT_RECORDS = 200


def find_text_key(source: str | Path) -> tuple[str, str]:
    """Return the key of the text, and a line that says why.

    The first file with records decides: ``text`` if it has that, otherwise the key whose strings are longest in the
    mean. Files of plain text have no keys.

    Args:
        source: as for :func:`padless.data.prepare.prepare`.

    Raises:
        DataError: no record has a string; or a file is broken.
    """
    for file in list_input(source):
        records = read_fields(file, _LOOK_AT_RECORDS)
        if not records:
            continue
        lengths = _mean_lengths(records)
        if _USUAL in lengths:
            return _USUAL, f"text of {source}: {_USUAL!r}"
        if not lengths:
            raise DataError(
                f"{file.url}: no key of the first records holds text (keys are {', '.join(map(str, records[0]))})",
                "set text_key=<the key of the text>",
            )
        key = max(lengths, key=lambda name: lengths[name])
        others = ", ".join(name for name in records[0] if name != key) or "none"
        return key, (
            f"text of {source}: {key!r}, whose texts are longest ({lengths[key]:.0f} characters in the mean; others: "
            f"{others}); text_key=... names another"
        )
    return _USUAL, f"text of {source}: whole files"


def _mean_lengths(records: Iterable[dict[str, object]]) -> dict[str, float]:
    """Return the mean characters of each key, over the records in which it holds a string that is no number."""
    lengths: dict[str, list[int]] = {}
    for record in records:
        for key, value in record.items():
            if isinstance(value, str) and value and not _is_number(value):
                lengths.setdefault(str(key), []).append(len(value))
    return {key: sum(found) / len(found) for key, found in lengths.items()}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
