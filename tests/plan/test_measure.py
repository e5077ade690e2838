"""Measuring: what is asked of the probe, and how its figures become a plan."""

import pytest

from padless.config.compose import compose
from padless.errors import ConfigError, TrainingError
from padless.plan import measure as measuring
from padless.plan.hardware import parse_machine
from padless.plan.lengths import assume_segments
from padless.plan.measure import Present, draw_blocks, look, machine_here, measure, run_probe

CPU = Present("cpu", "a processor", 4)


def test_drawn_blocks_are_full_and_the_same_each_time():
    blocks = draw_blocks(assume_segments(1024), 8192, 3)
    assert [sum(lengths) for lengths in blocks] == [8192] * 3
    assert all(1 <= length <= 1024 for lengths in blocks for length in lengths)
    assert blocks == draw_blocks(assume_segments(1024), 8192, 3)


def test_the_machine_is_the_present_one():
    machine = machine_here(CPU, None)
    assert machine.name == "1xcpu"
    assert machine.is_cpu
    assert machine.device.usd_per_hour == pytest.approx(4 * parse_machine("1xcpu").device.usd_per_hour)
    assert machine_here(Present("cuda", "NVIDIA L4", 1), parse_machine("8xl4")).count == 8


def test_another_device_than_the_present_one_is_refused():
    with pytest.raises(ConfigError, match="8xh100 is named, but this machine has a processor"):
        machine_here(CPU, parse_machine("8xh100"))
    with pytest.raises(ConfigError, match="this machine's GPU, NVIDIA B300, is not in the table"):
        machine_here(Present("cuda", "NVIDIA B300", 1), None)


@pytest.mark.slow
def test_a_probe_that_fails_says_its_last_line():
    with pytest.raises(TrainingError, match=r"the probe ended with code 1: .*unexpected keyword argument 'nothing'"):
        run_probe({"nothing": 1})


@pytest.mark.slow
def test_the_demo_is_measured_on_this_machine(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = compose(["hardware=cpu"])
    present = look(config)
    assert present.device_type == "cpu"
    told = []
    speed = measure(config, present, None, told.append, budget_s=6.0)
    assert set(speed.flops_per_s) == set(config.phases)
    assert all(1e6 < rate < 1e14 for rate in speed.flops_per_s.values())
    assert speed.optimizer_s_per_parameter > 0
    assert "steps with 4 layers" in speed.says
    assert told == [f"measuring 3 kinds of step on {present.name}, about 6 s"]


def test_phases_of_one_kind_are_measured_once(monkeypatch):
    asked = []

    def answer(task):
        asked.append(task)
        kinds = [
            {"flops_per_s": 1e9 * (1 + place), "depths": [3, 6], "steps": 5} for place in range(len(task["phases"]))
        ]
        return {"phases": kinds, "threads": 4, "optimizer_s_per_parameter": 1e-9, "processor_share": 0.5}

    monkeypatch.setattr(measuring, "run_probe", answer)
    config = compose(["recipe=modernbert_base"])
    speed = measure(config, CPU, None, lambda line: None)
    assert len(asked[0]["phases"]) == 2  # context and anneal compute the same step
    assert speed.flops_per_s == {"pretrain": 1e9, "context": 2e9, "anneal": 2e9}
    assert "10 steps with 3 and 6 layers of 22, the rest by FLOPs" in speed.says
    assert "it had 50% of its threads' time: others use this machine" in speed.says


@pytest.mark.parametrize(("device_type", "tokens"), [("cpu", [1024, 8192]), ("cuda", [8192, 8192])])
def test_a_cpu_is_measured_on_shorter_blocks_where_segments_allow(monkeypatch, device_type, tokens):
    asked = []

    def answer(task):
        asked.extend(sum(kind["blocks"][0]) for kind in task["phases"])
        kinds = [{"flops_per_s": 1e9, "depths": [22], "steps": 5} for _ in task["phases"]]
        return {"phases": kinds, "threads": 1, "optimizer_s_per_parameter": 1e-9, "processor_share": 1.0}

    monkeypatch.setattr(measuring, "run_probe", answer)
    measure(compose(["recipe=modernbert_base"]), Present(device_type, "here", 1), None, lambda line: None)
    assert asked == tokens
