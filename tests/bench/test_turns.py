"""Worker processes do what they are told, one batch at a time, and say so when they cannot."""

import os
import signal

import pytest

from padless.bench.turns import Worker, take_turns, workers
from padless.errors import ConfigError, TrainingError

PLACES = [{"lengths": (8, 4), "window_tokens": None}]
ATTENTION = {"job": "attention", "places": PLACES, "heads": 1, "width": 16, "precision": "fp32"}


@pytest.mark.slow
def test_workers_take_turns_and_report_time_and_memory(tmp_path):
    jobs = {who: {**ATTENTION, "who": who} for who in ("sdpa", "padded")}
    with workers(jobs, tmp_path) as here:
        found = list(take_turns(here, range(1)))
        here["sdpa"].clear_peak()
        assert here["sdpa"].do(0)["peak_bytes"] > 1e6
    ((number, spent),) = found
    assert number == 0
    assert list(spent) == ["sdpa", "padded"]
    assert all(facts["cpu_s"] > 0 and facts["wall_s"] > 0 for facts in spent.values())


@pytest.mark.slow
def test_a_job_that_fails_is_an_error_with_its_last_words(tmp_path):
    with (
        pytest.raises(
            TrainingError, match=r"the process of bad failed \(code 1\): .*attention backend 'nobody'"
        ) as found,
        Worker("bad", {**ATTENTION, "who": "nobody"}, tmp_path) as worker,
    ):
        worker.do(0)
    assert str(tmp_path / "bad.log") in found.value.remedy


@pytest.mark.slow
def test_a_killed_process_is_an_error(tmp_path):
    with Worker("killed", {**ATTENTION, "who": "sdpa"}, tmp_path) as worker:
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(TrainingError, match=r"the process of killed was killed, for want of memory perhaps"):
            worker.do(0)


def test_an_unknown_allocator_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="allocator=mine is unknown"):
        Worker("any", ATTENTION, tmp_path, "mine")
