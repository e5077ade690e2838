"""Shared memory of killed runs is removed; of live runs, of other users and of others than padless it is not."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from small_streams import write_split

from padless.data.leftovers import SHARED_MEMORY, clean_leftovers, find_leftovers, hold, release

SCRIPT = Path(__file__).with_name("read_stream.py")

pytestmark = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no /dev/shm")


def owner_name(prefix, user=None):
    return f"padless-{os.getuid() if user is None else user}-{prefix:06}.owner"


def plant(folder, prefix, user=None, names=("locals", "barrier"), **facts):
    """What a dead run leaves in ``folder``; returns all of it."""
    owner = folder / owner_name(prefix, user)
    owner.write_text(json.dumps({"pid": 4, "host": "h", "start": 1.5, "temp": str(folder / "tmp"), **facts}))
    (folder / "tmp").mkdir(exist_ok=True)
    files = [folder / f"{prefix:06}_{name}" for name in names]
    locks = [folder / "tmp" / f"{prefix:06}_{name}_filelock" for name in ("barrier", "cache")]
    for file in (*files, *locks):
        file.write_bytes(b"12345678")
    return [owner, *files, *locks]


def test_what_a_dead_run_left_is_found_and_removed_with_one_line(tmp_path):
    planted = plant(tmp_path, 123456)
    (found,) = find_leftovers(tmp_path)
    assert (found.prefix, found.process, found.host, found.start_time, found.bytes) == (123456, 4, "h", 1.5, 16)
    assert sorted(found.files) == sorted(planted[1:])
    assert all(path.exists() for path in planted)
    said = []
    assert clean_leftovers(said.append, tmp_path) == [found]
    assert said == ["removed what a killed run left in shared memory (4 files, 16 bytes)"]
    assert not any(path.exists() for path in planted)
    assert clean_leftovers(said.append, tmp_path) == []
    assert len(said) == 1


def test_what_has_no_owner_file_of_this_user_is_left_alone(tmp_path):
    plant(tmp_path, 123456)
    others = plant(tmp_path, 222222, user=os.getuid() + 1)
    strangers = [tmp_path / name for name in ("000000_locals", "333333_locals", "1234567_locals", "123456.txt", "x")]
    for path in strangers:
        path.write_bytes(b"")
    clean_leftovers(lambda line: None, tmp_path)
    assert all(path.exists() for path in (*others, *strangers))


def test_an_owner_file_that_leads_elsewhere_is_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    keep = elsewhere / "123456_barrier_filelock"
    keep.write_bytes(b"")
    (elsewhere / "owner").write_text(json.dumps({"temp": str(elsewhere)}))
    (tmp_path / owner_name(123456)).symlink_to(elsewhere / "owner")
    (tmp_path / owner_name(222222)).mkdir()
    assert clean_leftovers(lambda line: None, tmp_path) == []
    assert keep.exists()


@pytest.mark.parametrize("content", ["", "[1]", '{"temp"', '{"temp": 5, "pid": "x", "start": null}'])
def test_an_owner_file_that_was_cut_off_is_removed(tmp_path, content):
    owner = plant(tmp_path, 123456)[0]
    owner.write_text(content)
    (removed,) = clean_leftovers(lambda line: None, tmp_path)
    assert removed.process is None
    assert not owner.exists()
    assert not (tmp_path / "123456_locals").exists()


def test_held_digits_are_taken_and_not_left_over_until_released(tmp_path):
    assert hold(123456, tmp_path)
    assert not hold(123456, tmp_path)
    assert find_leftovers(tmp_path) == []
    facts = json.loads((tmp_path / owner_name(123456)).read_text())
    assert facts["pid"] == os.getpid()
    assert facts["temp"] == tempfile.gettempdir()
    release(123456, tmp_path)
    assert not list(tmp_path.iterdir())
    assert hold(123456, tmp_path)
    release(123456, tmp_path)


def test_a_forked_child_neither_holds_nor_releases(tmp_path):
    assert hold(123456, tmp_path)
    child = os.fork()
    if child == 0:
        release(123456, tmp_path)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    owner = tmp_path / owner_name(123456)
    assert owner.exists()
    look = (
        "import pathlib; from padless.data.leftovers import find_leftovers; "
        f"print(find_leftovers(pathlib.Path({str(tmp_path)!r})))"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    release(123456, tmp_path)


def test_nothing_happens_where_there_is_no_shared_memory_folder(tmp_path):
    assert hold(123456, tmp_path / "none")
    assert find_leftovers(tmp_path / "none") == clean_leftovers(print, tmp_path / "none") == []


class Reading:
    """A process that reads a stream and stays alive until it is killed or told to go on."""

    def __init__(self, folder, num_blocks, temp, workers=2):
        temp.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder), str(num_blocks), str(workers), "0"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(temp)},
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "reading 1\n"

    @property
    def prefixes(self):
        return [
            int(path.stem.rpartition("-")[2])
            for path in SHARED_MEMORY.glob(owner_name(0).replace("000000", "*"))
            if json.loads(path.read_text())["pid"] == self.process.pid
        ]

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def finish(self):
        self.process.communicate("")
        return self.process.returncode


def segments(prefix):
    return sorted(SHARED_MEMORY.glob(f"{prefix:06}_*"))


def clean_here(said):
    return {leftover.prefix for leftover in clean_leftovers(said.append)}


@pytest.mark.slow
@pytest.mark.parametrize("locks", ["present", "deleted"])
def test_a_killed_run_leaves_segments_and_the_next_start_removes_them(tmp_path, locks):
    split = write_split(tmp_path / "a", 40)
    killed, live = Reading(split.folder, 40, tmp_path / "temp"), Reading(split.folder, 40, tmp_path / "temp2")
    (dead_prefix,), (live_prefix,) = killed.prefixes, live.prefixes
    try:
        killed.kill()
        assert segments(dead_prefix)
        file_locks = list((tmp_path / "temp").glob(f"{dead_prefix}_*_filelock"))
        assert file_locks
        if locks == "deleted":
            for path in file_locks:
                path.unlink()
        assert dead_prefix in [leftover.prefix for leftover in find_leftovers()]
        alive = segments(live_prefix)
        said = []
        removed = clean_here(said)
        assert dead_prefix in removed
        assert live_prefix not in removed
        assert len(said) == 1
        assert segments(dead_prefix) == []
        assert not list((tmp_path / "temp").glob("*_filelock"))
        assert segments(live_prefix) == alive != []
    finally:
        code = live.finish()
    assert code == 0
    assert segments(live_prefix) == []
    assert not (SHARED_MEMORY / owner_name(live_prefix)).exists()
    assert not list((tmp_path / "temp2").glob("*_filelock"))


@pytest.mark.slow
def test_two_runs_side_by_side_on_one_folder_read_to_their_ends(tmp_path):
    split = write_split(tmp_path / "a", 40)
    runs = [Reading(split.folder, 40, tmp_path / "temp") for _ in range(2)]
    prefixes = [run.prefixes for run in runs]
    assert len({prefix for own in prefixes for prefix in own}) == 2
    assert clean_here([]).isdisjoint(prefix for own in prefixes for prefix in own)
    assert [run.finish() for run in runs] == [0, 0]
    assert not any(segments(prefix) for own in prefixes for prefix in own)
