"""Which key or column of an input holds the documents, where the user has not said so."""

from collections.abc import Iterable
from pathlib import Path

from padless.data.documents import InputFile, format_of, list_input, read_fields
from padless.errors import DataError

_USUAL = "text"
_WHOLE, _TABLES = ".txt", (".csv", ".tsv")
_LOOK_AT_RECORDS = 200
_LONGEST_NAME = 100  # characters: more is a text, not the name of a column


def find_text_key(source: str | Path) -> tuple[str, str]:
    """Return the key of the text, and a line that says why.

    The first file with records decides: ``text`` if it has that, otherwise the key whose strings are longest in the
    mean. Files of plain text have no keys.

    Args:
        source: as for :func:`padless.data.prepare.prepare`.

    Raises:
        DataError: there is no record, no record has a string, a table has no header; or a file is broken.
    """
    files = list_input(source)
    for file in files:
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
        if len(key) > _LONGEST_NAME:
            raise DataError(
                f"{file.url}: the text would be in {key[:40]!r}..., which is no name: the file has no header",
                "write a first line with the names of the columns, such as: text",
            )
        others = ", ".join(name for name in records[0] if name != key) or "none"
        return key, (
            f"text of {source}: {key!r}, whose texts are longest ({lengths[key]:.0f} characters in the mean; others: "
            f"{others}); text_key=... names another"
        )
    if not any(format_of(file.name) == _WHOLE and file.num_bytes for file in files):
        raise _no_record(files)
    return _USUAL, f"text of {source}: whole files"


def _no_record(files: list[InputFile]) -> DataError:
    first = max(files, key=lambda file: file.num_bytes)
    others = f", and {len(files) - 1} more files have none either" if len(files) > 1 else ""
    if first.num_bytes == 0:
        return DataError(f"{first.url} is empty (0 bytes){others}", "give files with documents")
    if format_of(first.name) in _TABLES:
        return DataError(
            f"{first.url} has a header and no row{others}: its first line is taken for the names of the columns",
            "give rows, and above them a first line with names such as: id,text",
        )
    return DataError(f"{first.url} has no record{others}", "give files with documents")


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
