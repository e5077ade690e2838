import hashlib

import pytest

from padless.data.durable import append_line, durable_file, sha256_of_file, write_durably
from padless.errors import CheckpointError


def test_a_file_appears_whole_and_leaves_no_partial(tmp_path):
    path = tmp_path / "new" / "file.bin"
    with durable_file(path) as file:
        file.write(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert [each.name for each in path.parent.iterdir()] == ["file.bin"]


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()])
def test_a_write_that_fails_keeps_the_earlier_file_and_removes_what_it_began(tmp_path, error):
    path = tmp_path / "file.bin"
    write_durably(path, b"earlier")

    def write():
        with durable_file(path) as file:
            file.write(b"later")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_bytes() == b"earlier"
    assert [each.name for each in tmp_path.iterdir()] == ["file.bin"]


def test_a_target_that_cannot_be_replaced_leaves_no_partial(tmp_path):
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="taken"):
        write_durably(tmp_path / "taken", b"x")
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("size", [0, 5, (1 << 20) + 3])
def test_the_hash_is_the_same_with_and_without_progress(tmp_path, size):
    path, seen = tmp_path / "x", []
    path.write_bytes(b"ab" * (size // 2) + b"c" * (size % 2))
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert sha256_of_file(path) == sha256_of_file(path, seen.append) == expected
    assert sum(seen) == size


def test_a_synced_line_stands_apart_from_one_that_a_kill_cut_off(tmp_path):
    path = tmp_path / "lineage.jsonl"
    append_line(path, "first", sync=True)
    path.write_text("first\nsec")
    append_line(path, "third", sync=True)
    append_line(path, "fourth")
    assert path.read_text() == "first\nsec\nthird\nfourth\n"


def test_a_line_that_cannot_be_written_is_said_with_the_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone/lineage\.jsonl cannot be written: No such file"):
        append_line(tmp_path / "gone" / "lineage.jsonl", "first")
