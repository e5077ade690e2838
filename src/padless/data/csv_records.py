"""Records of a CSV file: a header, then rows; quoted fields may hold delimiters, quotes and line breaks (RFC 4180).

What is wrong stops with file and row: a row with more or fewer fields than the header, a quote that never ends or ends
too early. The delimiter is the one of comma, semicolon, tab and bar that the header has most of. A byte-order mark is
not text.
"""

import csv
import sys
from collections.abc import Iterator

from padless.errors import DataError

DELIMITERS = (",", ";", "\t", "|")
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_BOM = b"\xef\xbb\xbf"
_BOMS_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_ENDLESS = "unexpected end of data"  # the library's words
_WRITE_AGAIN = "write the file again with a CSV library, or as JSON Lines"


def csv_records(lines: Iterator[bytes], url: str) -> Iterator[tuple[int, dict[str, str]]]:
    r"""Yield number (the first after the header is 1) and fields by column of each row; blank rows are left out.

    Args:
        lines: of the file, without their ``\n``.
        url: what the file is called in an error.

    Raises:
        DataError: no header, a column twice, a row that does not fit the header, broken quotes, not UTF-8.
    """
    csv.field_size_limit(sys.maxsize)  # the library's default refuses documents over 128 KiB
    texts = _texts(lines, url)
    first = next(texts, None)
    if first is None:
        return
    delimiter = max(DELIMITERS, key=first.count)
    rows = csv.reader(_chain(first, texts), delimiter=delimiter, strict=True)
    number = 0
    try:
        header = next(rows)
        _check_header(header, url)
        for row in rows:
            if not row:
                continue
            number += 1
            if len(row) != len(header):
                raise DataError(
                    f"{url}, row {number}: {len(row)} fields, the header has {len(header)} ({', '.join(header)}); "
                    f"fields are taken to be separated by {_NAMES[delimiter]}",
                    "put fields that hold a separator or a line break between quotes, as every CSV writer does; "
                    f"separators are {', '.join(_NAMES.values())}, the one that the header has most of",
                )
            yield number, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise _broken_quotes(f"{url}, row {number + 1}", str(error)) from error


def _broken_quotes(place: str, error: str) -> DataError:
    if _ENDLESS in error:
        return DataError(
            f"{place}: broken CSV: a quote that opens here is never closed, to the end of the file",
            f'close it; a quote inside a quoted field is written twice (""); or {_WRITE_AGAIN}',
        )
    if "expected after" in error:
        return DataError(
            f"{place}: broken CSV: text goes on after a closing quote ({error})",
            f'write a quote inside a quoted field twice (""); or {_WRITE_AGAIN}',
        )
    return DataError(f"{place}: broken CSV: {error}", _WRITE_AGAIN)


def _check_header(header: list[str], url: str) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{url}: the header has column {twice[0]!r} twice", "give each column a name of its own")


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _texts(lines: Iterator[bytes], url: str) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        content = line.removeprefix(_BOM) if number == 1 else line
        if number == 1 and content.startswith(_BOMS_UTF16):
            raise DataError(
                f"{url} is UTF-16, as some spreadsheets save it",
                "convert it: iconv -f UTF-16 -t UTF-8, or save as UTF-8",
            )
        try:
            yield content.decode("utf-8") + "\n"
        except UnicodeDecodeError as error:
            raise DataError(
                f"{url}, line {number}: byte {error.start} (0x{content[error.start]:02x}) is not UTF-8",
                "convert the file to UTF-8 (such as: iconv -f LATIN1 -t UTF-8) or remove it",
            ) from error
