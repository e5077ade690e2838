"""Shared memory that dead runs left behind, looked at and not touched."""

import re
from collections.abc import Iterator
from pathlib import Path

from padless.doctor.finding import Finding, note, ok, readable_bytes
from padless.doctor.host import SHARED_MEMORY

_PIECE = re.compile(r"\d{6}_\w+")


def look_at_leftovers(folder: Path = SHARED_MEMORY) -> Iterator[Finding]:
    """List pieces with names such as ours that no process here maps any more."""
    pieces = {path.name: path for path in folder.iterdir() if _PIECE.fullmatch(path.name)} if folder.is_dir() else {}
    mapped = _mapped_names(folder)
    dead = [path for name, path in sorted(pieces.items()) if name not in mapped]
    if not dead:
        used = f"; {len(pieces)} pieces belong to live runs" if pieces else ""
        yield ok("leftovers", f"no shared memory of dead runs{used}")
        return
    total = sum(path.stat().st_size for path in dead)
    numbers = ", ".join(sorted({path.name[:6] for path in dead}))
    yield note(
        "leftovers",
        f"{len(dead)} pieces of dead runs in {folder} ({numbers}, {readable_bytes(total)}); "
        "the next run cleans its own",
    )


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
