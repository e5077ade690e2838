"""``out=<file>.png`` of the commands: looked at before anything is computed, and there whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from padless.data.durable import durable_file
from padless.errors import ConfigError


def picture_file(text: str, remedy: str) -> Path:
    """Return the file that ``out=`` names; nothing is left where it was tried.

    Args:
        text: behind ``out=``.
        remedy: where it is no PNG.

    Raises:
        ConfigError: it does not end in .png, its folder is not there, or it cannot be written.
    """
    out = Path(text)
    if out.suffix.lower() != ".png":
        raise ConfigError(f"out={out} does not end in .png", remedy)
    if not out.parent.is_dir():
        raise ConfigError(f"out={out}: there is no folder {out.parent}", "make it, or give a file in one that exists")
    was_there = out.exists()
    with _saying(out):
        out.open("ab").close()
        if not was_there:
            out.unlink()
    return out


@contextmanager
def writing_picture(out: Path) -> Iterator[BinaryIO]:
    """Open a picture's file; it appears under its name when it is complete.

    Raises:
        ConfigError: it cannot be written.
    """
    with _saying(out), durable_file(out) as file:
        yield file


@contextmanager
def _saying(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"out={out} cannot be written: {error.strerror or error}", "give a file in a writable folder"
        ) from error
