"""A run that fails after it has begun: what it leaves says so, nothing of it is held, and the same command goes on."""

import shutil
import subprocess
import sys

import pytest
from faults import ends_as, prepared_copy, small, small_run, stream_at
from here import refusal, run_here
from runs import steps

from padless.run_files import CONFIG, LOCK, METRICS, STATUS
from padless.train.callbacks.metrics import LogMetrics
from padless.train.status import read_status

pytestmark = [pytest.mark.slow, pytest.mark.composer]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return small_run(tmp_path_factory)


def is_held(folder):
    """Whether a lock is on the folder, for another process than this one, and who is said to hold it."""
    code = f"""
import fcntl
with open({str(folder / LOCK)!r}, "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
"""
    taken = subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    return not taken or (folder / LOCK).read_text().strip() != ""


def test_an_error_in_a_callback_is_in_the_status_and_the_same_command_goes_on(undisturbed, tmp_path, monkeypatch):
    log = LogMetrics.batch_end

    def fails_at_step_10(self, state, logger):
        if int(state.timestamp.batch) == 10:
            raise RuntimeError("no more of this\nand more lines")
        log(self, state, logger)

    monkeypatch.setattr(LogMetrics, "batch_end", fails_at_step_10)
    with pytest.raises(RuntimeError, match="no more of this"):
        run_here(small(tmp_path))
    monkeypatch.undo()
    status = read_status(tmp_path / "smoke")
    assert (status.state, status.exit_code, status.phase) == ("failed", 1, "short")
    assert status.message == "RuntimeError: no more of this"
    assert status.checkpoint is not None
    assert not is_held(tmp_path / "smoke")
    output = ends_as(undisturbed, small(tmp_path), tmp_path)
    assert "resumed phase short at " in output
    assert "took over" not in output
    assert read_status(tmp_path / "smoke").state == "finished"


def test_data_that_is_gone_at_the_next_start_is_refused_and_changes_nothing_of_the_run(undisturbed, tmp_path):
    data = prepared_copy(tmp_path)
    arguments = small(tmp_path, **stream_at(data))
    run_here([*arguments, "run.stop_after_tokens=6_000"])
    kept = {path: path.read_bytes() for path in (tmp_path / "smoke").rglob("*") if path.is_file()}
    shutil.move(data, tmp_path / "away")
    assert str(data) in refusal(arguments)
    status = read_status(tmp_path / "smoke")
    assert (status.state, status.exit_code) == ("failed", 2)
    assert not is_held(tmp_path / "smoke")
    changed = {path.name for path, content in kept.items() if path.read_bytes() != content}
    assert changed <= {STATUS, LOCK}
    shutil.move(tmp_path / "away", data)
    run_here(arguments)
    assert steps(tmp_path / "smoke") == steps(undisturbed)


def test_a_first_start_that_is_refused_leaves_no_more_than_how_it_ended(undisturbed, tmp_path):
    missing = tmp_path / "nothing"
    assert str(missing) in refusal(small(tmp_path, **stream_at(missing)))
    assert sorted(path.name for path in (tmp_path / "smoke").iterdir()) == [LOCK, STATUS]
    status = read_status(tmp_path / "smoke")
    assert (status.state, status.exit_code, status.clock_tokens, status.checkpoint) == ("failed", 2, None, None)
    assert not is_held(tmp_path / "smoke")
    ends_as(undisturbed, small(tmp_path), tmp_path)
    assert {CONFIG, METRICS, STATUS} <= {path.name for path in (tmp_path / "smoke").iterdir()}
