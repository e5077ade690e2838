import os
import signal

import pytest
import torch

from padless.checkpoint import Checkpoint, checkpoint_path, save_checkpoint
from padless.events import VARIABLE


def small(phase="short", clock=900, **facts):
    """Return a checkpoint of one weight with its moments."""
    weight = torch.full((4,), float(clock))
    moments = {"exp_avg": weight * 2, "exp_avg_sq": weight * 3, "eps_sq": torch.tensor(1e-12), "kahan_comp": None}
    optimizer = {"moments": {"w": moments}, "group_steps": {"0": torch.tensor(3, dtype=torch.int32), "1": None}}
    return Checkpoint({"w": weight}, optimizer, {"phase": phase, "clock_tokens": clock, "step": clock // 100, **facts})


@pytest.fixture(name="small")
def small_fixture():
    return small


@pytest.fixture
def save(tmp_path):
    """Return a function that saves a small checkpoint in the run folder ``tmp_path`` and returns its path."""

    def save(phase, clock, *, lr=None, kept=None, **facts):
        path = checkpoint_path(tmp_path, phase, clock)
        save_checkpoint(path, small(phase, clock, **facts), "hash", lr=lr, kept=kept)
        return path

    return save


@pytest.fixture
def not_root(tmp_path_factory):
    closed = tmp_path_factory.mktemp("closed") / "file"
    closed.touch(0)
    if os.access(closed, os.R_OK):
        pytest.skip("root reads and writes whatever the permissions say")


@pytest.fixture
def kill_at():
    """Return a function that runs an action in a process that is killed at a named event."""

    def run(event, action):
        child = os.fork()
        if child == 0:
            os.environ.pop("RANK", None)
            os.environ[VARIABLE] = f"{event}:1:0:rank"
            try:
                action()
            finally:
                os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL

    return run
