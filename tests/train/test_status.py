"""A launch script can rely on status.json."""

import json
import os
import socket

import pytest

from padless.errors import CheckpointError
from padless.run_files import STATUS
from padless.train.status import read_status, write_status


def test_a_status_comes_back_as_it_was_written(tmp_path):
    assert read_status(tmp_path) is None
    write_status(
        tmp_path,
        "stopped",
        exit_code=85,
        clock_tokens=1_000,
        step=7,
        phase="short",
        checkpoint=tmp_path / "a.pt",
        message="stopped on SIGTERM",
    )
    status = read_status(tmp_path)
    assert (status.state, status.exit_code, status.clock_tokens, status.step) == ("stopped", 85, 1_000, 7)
    assert (status.phase, status.checkpoint, status.message) == (
        "short",
        str(tmp_path / "a.pt"),
        "stopped on SIGTERM",
    )
    assert (status.host, status.pid) == (socket.gethostname(), os.getpid())


def test_a_script_without_python_finds_the_exit_code_on_a_line_of_its_own(tmp_path):
    write_status(tmp_path, "stopped", exit_code=85)
    assert ' "exit_code": 85,' in (tmp_path / STATUS).read_text().splitlines()


@pytest.mark.parametrize("text", ["{", "[]", '{"state": "running"}'])
def test_a_damaged_status_is_an_error_that_names_the_file(tmp_path, text):
    (tmp_path / STATUS).write_text(text)
    with pytest.raises(CheckpointError, match=r"status.json is damaged .*\n.*delete it"):
        read_status(tmp_path)


def test_an_unknown_state_is_an_error_that_names_it(tmp_path):
    write_status(tmp_path, "running")
    path = tmp_path / STATUS
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "paused"}))
    with pytest.raises(CheckpointError, match=r"unknown state 'paused'\n.*version that wrote it"):
        read_status(tmp_path)
