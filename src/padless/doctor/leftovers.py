"""Shared memory that dead runs left behind, looked at and not touched."""

import re
from collections.abc import Iterator
from pathlib import Path

from padless.data.leftovers import SHARED_MEMORY, find_leftovers
from padless.doctor.finding import Finding, note, ok, readable_bytes

_PIECE = re.compile(r"(\d{6})_\w+")
_OWNER = re.compile(r"padless-\d+-(\d{6})\.owner")


def look_at_leftovers(folder: Path = SHARED_MEMORY) -> Iterator[Finding]:
    """List what killed runs of ours left, and pieces of Streaming's that nobody owns or uses."""
    found = find_leftovers(folder)
    if found:
        runs = "a killed run" if len(found) == 1 else f"{len(found)} killed runs or phases"
        count, total = sum(len(each.files) for each in found), sum(each.bytes for each in found)
        files = "1 file" if count == 1 else f"{count} files"
        yield note("leftovers", f"{runs} left {files}, {readable_bytes(total)}; the next run removes them")
    strange = _unowned(folder)
    if strange:
        numbers = ", ".join(sorted({path.name[:6] for path in strange}))
        yield note(
            "leftovers",
            f"{len(strange)} files of Streaming in {folder} that no process uses and padless does not own ({numbers}); "
            f"if no other program needs them: rm {folder}/{{{numbers.replace(' ', '')}}}_*",
        )
    if not found and not strange:
        yield ok("leftovers", f"nothing of killed runs in {folder}")


def _unowned(folder: Path) -> list[Path]:
    """Return pieces with names such as Streaming's, without an owner file of padless and mapped by no process here."""
    if not folder.is_dir():
        return []
    names = sorted(path.name for path in folder.iterdir())
    owned = {match[1] for name in names if (match := _OWNER.fullmatch(name))}
    pieces = [name for name in names if (match := _PIECE.fullmatch(name)) and match[1] not in owned]
    mapped = _mapped_names(folder) if pieces else set()
    return [folder / name for name in pieces if name not in mapped]


def _mapped_names(folder: Path) -> set[str]:
    """Return the names in ``folder`` that a process maps, as far as we may look."""
    names, marker = set(), f" {folder}/"
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            text = maps.read_text(errors="replace")
        except OSError:
            continue
        names |= {line.partition(marker)[2] for line in text.splitlines() if marker in line}
    return names
