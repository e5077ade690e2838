"""Where the run folder is or would be: writable, synced, locked, with room; and nothing is left behind."""

import fcntl
import os
import subprocess
import sys

import pytest

from padless.doctor import storage
from padless.doctor.storage import kept_checkpoints, lock_line, look_at_disk, look_at_run_folder

from .conftest import smoke


def test_a_good_place_is_ok_and_stays_as_it_was(tmp_path):
    found = {finding.name: finding for finding in look_at_run_folder(smoke(tmp_path))}
    assert set(found) == {"run folder", "syncing", "locks", "clock"}
    assert {finding.state for finding in found.values()} == {"ok"}
    assert found["run folder"].found == f"{tmp_path / 'runs' / 'smoke'} (to be made) can be written"
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_a_file_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    (finding,) = look_at_run_folder(smoke(tmp_path))
    assert (finding.state, finding.found) == ("mend", f"{tmp_path / 'runs'} is not a folder")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    config = smoke(tmp_path, "run.folder=/proc/self")
    (finding,) = look_at_run_folder(config)
    assert finding.state == "mend"
    assert finding.found.startswith("nothing can be written in /proc/self: ")


def test_a_lock_that_a_second_process_also_gets_is_named(tmp_path, monkeypatch):
    path = tmp_path / "try"
    path.write_bytes(b"x")
    assert lock_line(path, tmp_path).state == "ok"
    monkeypatch.setattr(fcntl, "lockf", lambda *arguments: None)  # as with NFS mounted nolock: granted to everyone
    finding = lock_line(path, tmp_path)
    assert (finding.state, finding.found) == ("mend", f"the file system of {tmp_path} gives one lock to two processes")


def test_a_file_system_without_locks_or_syncs_is_named(tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", fail)
    monkeypatch.setattr(os, "fsync", fail)
    found = {finding.name: finding for finding in look_at_run_folder(smoke(tmp_path))}
    assert found["locks"].found == f"the file system of {tmp_path} has no locks: No locks available"
    assert found["syncing"].found == f"the file system of {tmp_path} cannot sync: No locks available"
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_not_answered_is_named(tmp_path, monkeypatch):
    def hang(*arguments, **settings):
        raise subprocess.TimeoutExpired("python", 10)

    (tmp_path / "try").write_bytes(b"x")
    monkeypatch.setattr(subprocess, "run", hang)
    assert "does not answer a lock within 10 s" in lock_line(tmp_path / "try", tmp_path).found


def test_the_other_process_runs_this_python(tmp_path):
    (tmp_path / "try").write_bytes(b"x")
    done = subprocess.run([sys.executable, "-S", "-E", "-c", storage._TRY_LOCK, str(tmp_path / "try")], check=False)
    assert done.returncode == 0, "a file that nobody holds is locked"


def test_a_disk_that_is_too_small_for_what_is_kept_is_named(tmp_path):
    (finding,) = look_at_disk(smoke(tmp_path))
    assert finding.state == "ok"
    (finding,) = look_at_disk(smoke(tmp_path, "run.keep_newest_checkpoints=1000000000"))
    assert finding.state == "mend"
    assert "1000000003 checkpoints of" in finding.found
    assert "run.keep_newest_checkpoints" in str(finding.remedy)


def test_checkpoints_that_are_there_need_no_more_room(tmp_path):
    def needed():
        (finding,) = look_at_disk(smoke(tmp_path))
        return finding.found.rpartition(" are kept, ")[2]

    before = needed()
    folder = tmp_path / "runs" / "smoke" / "checkpoints" / "short"
    folder.mkdir(parents=True)
    (folder / "short-1tok.pt").write_bytes(b"x" * 1_000_000)
    assert needed() != before


@pytest.mark.parametrize(
    ("overrides", "count"),
    [
        (["run.keep_newest_checkpoints=2"], 3 + 2),
        (["run.keep_newest_checkpoints=2", "phases.short.keep_every_tokens=20K"], 3 + 2 + 2),
        (["run.keep_newest_checkpoints=null"], 3 + 4 + 2 + 2),
    ],
)
def test_kept_checkpoints_are_phase_ends_intervals_and_the_newest(tmp_path, overrides, count):
    saves = [f"phases.{name}.save_every_tokens=10K" for name in ("short", "context", "anneal")]
    assert kept_checkpoints(smoke(tmp_path, *saves, *overrides)) == count
