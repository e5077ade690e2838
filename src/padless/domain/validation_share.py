"""Which share of the documents is kept for validation, found before anything is prepared.

A document is for validation if its hash lies below the share, so a share that suits many documents may take none, or
all, of a few. Documents are looked at until there are enough on both sides; of fewer than some hundred, the share is
raised to what takes a tenth of them, whole, and one at least.
"""

from collections.abc import Iterator

from padless.data.documents import Document, Meter, list_input, read_documents
from padless.data.token_store import split_place
from padless.errors import ConfigError, DataError

USUAL = 0.02
ENOUGH = 10  # documents for validation, from which on a loss is no accident of one of them; ours
_PART = 10  # of few documents, one in so many
_PLACES = 1 << 64


def choose_val_fraction(source: str, text_key: str, given: float | None) -> tuple[float, str | None]:
    """Return the share of documents for validation, and a line that says so where it is not the usual one.

    Args:
        source: documents, as for :func:`padless.data.prepare.prepare`.
        text_key: key or column of the text.
        given: by the user, who is then held to it.

    Raises:
        ConfigError: the share that is given keeps no document, or all.
        DataError: there are not two different texts, or a document cannot be read.
    """
    fraction = USUAL if given is None else given
    places, is_all = _places(source, text_key, fraction, ENOUGH if given is None else 1)
    if not is_all:
        return fraction, None
    below = sum(place < fraction * _PLACES for place in places)
    wanted = max(1, min(ENOUGH, len(places) // _PART))
    if len(places) < 2:
        raise _too_few(source, text_key, len(places))
    if 0 < below < len(places) and (given is not None or below >= wanted):
        return fraction, None
    better = share_between(places[wanted - 1], places[wanted])
    if given is not None:
        raise ConfigError(
            f"val_fraction={given:g} keeps {below} of the {len(places)} different documents of {source} for validation",
            f"leave it out, or use val_fraction={better!r}, which keeps {wanted}",
        )
    kept = "1 is" if wanted == 1 else f"{wanted} are"
    return better, (
        f"validation: {kept} kept of the {len(places)} different documents of {source} (val_fraction={better!r}, "
        "by their hashes)"
    )


def _places(source: str, text_key: str, fraction: float, enough: int) -> tuple[list[int], bool]:
    """Return sorted places of different texts, and whether they are all; no more are read than it takes."""
    places: set[int] = set()
    below = 0
    for document in _documents(source, text_key):
        if not document.text.strip():
            continue
        place = split_place(document.text)
        if place not in places:
            places.add(place)
            below += place < fraction * _PLACES
        if below >= enough and below < len(places):
            return sorted(places), False
    return sorted(places), True


def _documents(source: str, text_key: str) -> Iterator[Document]:
    for file in list_input(source):
        yield from read_documents(file, text_key, Meter())


def share_between(last: int, first: int) -> float:
    """Return the shortest share that takes a place ``last`` and not ``first``, the next larger one."""
    middle = (last / 2 + first / 2) / _PLACES
    for digits in range(2, 17):
        share = round(middle, digits)
        if last < share * _PLACES <= first:
            return share
    return middle


def _too_few(source: str, text_key: str, count: int) -> DataError:
    if count == 0:
        return DataError(
            f"input {source} has no document: every {text_key!r} is empty",
            "give more documents, or the column of the text: text_key=...",
        )
    return DataError(
        f"input {source} is one document; one is needed to train on, and another, whole, to validate on",
        "cut it into several, such as a file or a row for each chapter, and give their folder or table",
    )
