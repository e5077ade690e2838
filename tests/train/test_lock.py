"""One writer a run folder, on one machine and on several, and none is locked out by the dead."""

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from padless.errors import CheckpointError
from padless.run_files import LOCK
from padless.train.lock import RunLock, sees_holder

WORKER = Path(__file__).with_name("lock_worker.py")


@pytest.fixture
def start():
    """Start lock workers that do not outlive the test."""
    started = []

    def begin(folder, wait_s=0.5):
        process = subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), str(wait_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def lines_until(process, word):
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith(word):
            return lines
    raise AssertionError(f"no line {word!r} in {lines}")


def content(folder, host="node-b", boot_id="another boot", heartbeat=1):
    """Return what a holder on another machine would have written."""
    holder = {
        "host": host,
        "pid": 4321,
        "boot_id": boot_id,
        "process_started_ticks": 1,
        "started_at": "2026-01-02T03:04:05+00:00",
        "token": "other",
        "heartbeat": heartbeat,
    }
    return json.dumps(holder).encode().ljust(1023) + b"\n"


def quick(folder, **more):
    return RunLock(folder, beat_s=0.1, still_s=0.8, **more)


def test_a_second_writer_is_refused_by_name_while_the_first_lives_and_enters_when_it_has_released(tmp_path, start):
    first = start(tmp_path)
    lines_until(first, "held")
    second = start(tmp_path)
    said, refused = lines_until(second, "refused")
    who = f"process {first.pid} on host {socket.gethostname()}"
    assert said == f"said: {tmp_path / LOCK}: held by {who}; waiting 0.5 s for it to end"
    assert re.fullmatch(rf"refused: {tmp_path / LOCK}: the run folder is in use by {who} since \S+", refused)
    first.stdin.write("\n")
    first.stdin.flush()
    lines_until(first, "released")
    assert lines_until(start(tmp_path), "held") == ["held"]  # nothing to say: it was given back


def test_a_killed_writers_folder_is_taken_over_at_once_with_a_line(tmp_path, start):
    first = start(tmp_path)
    lines_until(first, "held")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    lines = lines_until(start(tmp_path), "held")
    took_over = f"took over the run folder from process {first.pid} on host {socket.gethostname()}, which has ended"
    assert lines == [f"said: {took_over}", "held"]


def test_a_writer_that_ends_within_the_wait_is_waited_for(tmp_path, start):
    first = start(tmp_path)
    lines_until(first, "held")
    second = start(tmp_path, wait_s=60)
    assert second.stdout.readline().startswith("said: ")  # it waits
    os.kill(first.pid, signal.SIGKILL)
    lines_until(second, "held")


def test_another_machines_writer_with_a_still_heartbeat_is_taken_over_after_the_time_that_is_said(tmp_path):
    (tmp_path / LOCK).write_bytes(content(tmp_path))
    lines = []
    lock = quick(tmp_path)
    began = time.monotonic()
    lock.acquire(lines.append)
    assert time.monotonic() - began >= 0.8
    lock.release()
    assert lines == [
        f"{tmp_path / LOCK}: process 4321 on host node-b has it; its heartbeat is watched for 0.8 s",
        "took over the run folder from process 4321 on host node-b, whose heartbeat stands still",
    ]


def test_another_machines_writer_with_a_moving_heartbeat_is_refused_by_name(tmp_path):
    path = tmp_path / LOCK
    path.write_bytes(content(tmp_path))
    lines = []

    def watch_began(line):
        lines.append(line)
        with path.open("r+b") as file:  # the other machine's next heartbeat
            file.write(content(tmp_path, heartbeat=2))

    cause = r"run.lock: the run folder is in use by process 4321 on host node-b since 2026-01-02.*\n.*another run.name"
    with pytest.raises(CheckpointError, match=cause):
        quick(tmp_path).acquire(watch_began)
    assert len(lines) == 1


def test_content_that_nobody_can_read_is_watched_like_another_machines(tmp_path):
    (tmp_path / LOCK).write_bytes(b'{"host": "node-b", "pi')
    lines = []
    lock = quick(tmp_path)
    lock.acquire(lines.append)
    lock.release()
    assert lines[-1] == "took over the run folder from an unknown process, whose heartbeat stands still"


def test_a_file_system_without_locks_falls_back_to_the_heartbeat(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    first = quick(tmp_path)
    first.acquire(lambda line: None)
    with pytest.raises(CheckpointError, match=rf"in use by process {os.getpid()} on host"):
        RunLock(tmp_path, beat_s=0.1, still_s=60).acquire(lambda line: None)
    first.release()
    lines = []
    second = quick(tmp_path)
    second.acquire(lines.append)
    second.release()
    assert lines == []


def test_of_two_that_find_a_folder_free_at_once_the_one_that_wrote_first_is_refused(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    first, second = quick(tmp_path), quick(tmp_path)
    for lock in (first, second):  # acquire, up to the moment at which both have found it free
        assert lock._wait_for_it(lambda line: None, 0) is False
    first._beat(0)
    second._beat(0)
    with pytest.raises(CheckpointError, match="the run folder is in use by process"):
        first._refuse_a_race()
    second._refuse_a_race()
    for lock in (first, second):
        lock._close()


def test_a_writer_that_was_frozen_and_taken_over_meanwhile_is_told_and_stops_beating(tmp_path):
    lost = threading.Event()
    told = []

    def on_lost(line):
        told.append(line)
        lost.set()

    lock = quick(tmp_path, on_lost=on_lost)
    lock.acquire(lambda line: None)
    with (tmp_path / LOCK).open("r+b") as file:
        file.write(content(tmp_path))
    assert lost.wait(10)
    assert told == [
        f"{tmp_path / LOCK}: the run folder was taken over by process 4321 on host node-b; "
        "this process has it no longer"
    ]
    assert (tmp_path / LOCK).read_bytes() == content(tmp_path)


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(CheckpointError, match=r"file/run.lock: the run folder cannot be written \(.*\)\n.*run.folder"):
        quick(blocked).acquire(lambda line: None)


def test_releasing_without_a_lock_does_nothing(tmp_path):
    quick(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_whoever_sees_the_same_folder_sees_its_holder_and_waits_for_it_to_appear(tmp_path):
    lock = RunLock(tmp_path / "a")
    assert not sees_holder(tmp_path / "a", lock.token, 0.0)
    later = threading.Timer(0.3, lambda: (tmp_path / "a").mkdir() or (tmp_path / "a" / LOCK).write_bytes(written))
    written = content("a")
    token = json.loads(written)["token"]
    later.start()
    assert sees_holder(tmp_path / "a", token, 30.0)
    assert not sees_holder(tmp_path / "a", lock.token, 0.0)
    later.join()
