"""What killed runs left in shared memory is listed, and left where it is."""

import mmap
import subprocess
import sys

from padless.doctor.leftovers import look_at_leftovers

KILLED = "import os, signal; from pathlib import Path; from padless.data.leftovers import hold;"


def test_a_clean_machine_is_ok(tmp_path):
    (tmp_path / "sem.other").write_bytes(b"x")
    (finding,) = look_at_leftovers(tmp_path)
    assert (finding.state, finding.found) == ("ok", f"nothing of killed runs in {tmp_path}")
    assert next(iter(look_at_leftovers(tmp_path / "none"))).state == "ok"


def test_a_killed_run_s_pieces_are_a_note_and_stay(tmp_path):
    script = f"{KILLED} hold(123456, Path({str(tmp_path)!r})); os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", script], check=False)
    (tmp_path / "123456_locals").write_bytes(b"x" * 2048)
    before = sorted(tmp_path.iterdir())
    (finding,) = look_at_leftovers(tmp_path)
    assert (finding.state, finding.found) == ("note", "a killed run left 1 file, 2 KiB; the next run removes them")
    assert sorted(tmp_path.iterdir()) == before


def test_a_live_run_s_pieces_are_none(tmp_path):
    script = f"{KILLED} hold(123456, Path({str(tmp_path)!r})); print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"held\n"
        (tmp_path / "123456_locals").write_bytes(b"x")
        (finding,) = look_at_leftovers(tmp_path)
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert finding.state == "ok"


def test_pieces_that_nobody_owns_are_a_note_with_the_command(tmp_path):
    for name in ("000003_locals", "000003_barrier", "000007_locals"):
        (tmp_path / name).write_bytes(b"x")
    (finding,) = look_at_leftovers(tmp_path)
    assert finding.state == "note"
    assert finding.found.startswith(f"3 files of Streaming in {tmp_path} that no process uses")
    assert finding.found.endswith(f"rm {tmp_path}/{{000003,000007}}_*")


def test_pieces_that_a_process_maps_are_not_listed(tmp_path):
    path = tmp_path / "000003_locals"
    path.write_bytes(b"x" * mmap.PAGESIZE)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0):
        assert next(iter(look_at_leftovers(tmp_path))).state == "ok"
