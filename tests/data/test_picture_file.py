"""A picture's file: refused before anything is computed; whole or not there."""

import re

import pytest

from padless.data.picture_file import picture_file, writing_picture
from padless.errors import ConfigError


def test_a_file_is_tried_and_left_as_it_was(tmp_path):
    old, new = tmp_path / "old.PNG", tmp_path / "new.png"
    old.write_bytes(b"picture")
    assert picture_file(str(old), "") == old
    assert picture_file(str(new), "") == new
    assert old.read_bytes() == b"picture"
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.pdf", "does not end in .png\n  remedy: write out=a.png"),
        ("no/a.png", ": there is no folder {folder}/no\n  remedy: make it, or give a file in one that exists"),
        ("folder.png", "cannot be written: Is a directory\n  remedy: give a file in a writable folder"),
    ],
)
def test_what_cannot_become_a_picture_is_refused_first(tmp_path, name, message):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ConfigError, match=re.escape(message.format(folder=tmp_path))):
        picture_file(str(tmp_path / name), "write out=a.png")


def draw_half(out):
    with writing_picture(out) as file:
        file.write(b"half")
        raise OSError(28, "No space left")


def test_a_drawing_that_fails_leaves_the_old_picture(tmp_path):
    out = tmp_path / "a.png"
    out.write_bytes(b"old")
    with pytest.raises(ConfigError, match=r"out=.*a.png cannot be written: No space left"):
        draw_half(out)
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]
