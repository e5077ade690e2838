"""A measurement in a process of its own: what it returns, what it says when it fails, whose turn it is."""

import os

import pytest

from padless.bench.apart import in_turns, measure_apart
from padless.errors import TrainingError


@pytest.mark.slow
def test_a_function_of_another_process_gets_its_settings_and_returns_its_result(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    assert measure_apart("os:getpid", tmp_path / "log.txt") != os.getpid()
    assert measure_apart("os:getenv", tmp_path / "log.txt", key="RANK") is None
    assert measure_apart("os:getenv", tmp_path / "log.txt", key="OMP_NUM_THREADS") == "1"


@pytest.mark.slow
def test_a_process_that_fails_is_named_with_its_last_line_and_log(tmp_path):
    with pytest.raises(TrainingError, match=r"the process of os:listdir failed \(code 1\): FileNotFoundError") as error:
        measure_apart("os:listdir", tmp_path / "logs" / "log.txt", path="/nowhere")
    assert str(tmp_path / "logs" / "log.txt") in str(error.value.remedy)


def test_everyone_begins_once_and_each_has_all_repeats():
    turns = list(in_turns(["a", "b", "c"], 3))
    assert [name for _, name in turns[::3]] == ["a", "b", "c"]
    assert sorted(turns) == [(repeat, name) for repeat in range(3) for name in "abc"]
