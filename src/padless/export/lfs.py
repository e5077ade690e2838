"""Git LFS pointers: what a clone without LFS has in the place of every large file."""

import re
from pathlib import Path

from padless.errors import ModelError

_BEGINS = b"version https://git-lfs.github.com/spec/"
_SIZE = re.compile(rb"^size (\d{1,20})$", re.MULTILINE)
_MAX_POINTER_BYTES = 1024  # by its specification


def refuse_lfs_pointer(file: Path) -> None:
    """Refuse a pointer that stands in the place of the file itself.

    Raises:
        ModelError: it is one.
        OSError: it cannot be read.
    """
    with file.open("rb") as opened:
        content = opened.read(_MAX_POINTER_BYTES)
    if not content.startswith(_BEGINS):
        return
    size = _SIZE.search(content)
    missing = f" of {int(size.group(1)):_} bytes" if size else ""
    raise ModelError(
        f"{file} is a Git LFS pointer: the file itself{missing} was not downloaded",
        "fetch it with `git lfs pull` in its repository, or download it again",
    )
