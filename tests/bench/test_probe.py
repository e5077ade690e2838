"""The probe: real steps on a CPU, and an extrapolation that is exact where time is linear in FLOPs."""

import dataclasses

import pytest

from padless.bench.probe import Setting as ProbeSetting
from padless.bench.probe import Timing, flops_per_s, measure_kind, probe
from padless.bench.shapes import OPTIMIZER, ROPE, SHAPES

BLOCKS = [[40, 88], [128]]


def task(**changes):
    told = {
        "model": dataclasses.asdict(SHAPES["tiny"]),
        "optimizer": dataclasses.asdict(OPTIMIZER),
        "rope": dataclasses.asdict(ROPE),
        "microbatch_blocks": 4,
        "precision": "auto",
        "device": "cpu",
        "backend": "auto",
        "compile": "auto",
        "num_threads": None,
        "phases": [{"blocks": BLOCKS, "mask_rate": 0.3}],
        "budget_s": 0.2,
    }
    return told | changes


def timing(layers, flops, seconds):
    return Timing(layers, flops, seconds, 0.0, 1, 3)


def test_time_that_is_linear_in_flops_is_extrapolated_exactly():
    # 1 s whatever the depth, and 1 s for 100 FLOPs
    rate = flops_per_s([timing(3, 100, 2.0), timing(6, 200, 3.0)], 1000)
    assert rate == pytest.approx(1000 / 11.0)


def test_a_whole_model_is_not_extrapolated_and_noise_is_not_believed():
    assert flops_per_s([timing(4, 400, 2.0)], 400) == 200.0
    assert flops_per_s([timing(3, 100, 3.0), timing(6, 200, 2.0)], 1000) == 100.0


def test_without_phases_it_only_says_what_is_here():
    found = probe(**task(phases=[]))
    assert set(found) == {"device_type", "name", "threads"}
    assert found["device_type"] == "cpu"


@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_steps_are_trained_and_timed(precision):
    found = probe(**task(precision=precision))
    (kind,) = found["phases"]
    assert kind["flops_per_s"] > 0
    assert kind["depths"] == [2]
    assert kind["steps"] >= 1
    assert found["optimizer_s_per_parameter"] > 0
    assert found["processor_share"] > 0


def test_a_model_too_deep_for_the_time_is_measured_at_one_and_two_periods():
    import torch

    deep = dataclasses.replace(SHAPES["tiny"], num_layers=900)
    setting = ProbeSetting(deep, OPTIMIZER, ROPE, torch.device("cpu"), "fp32", "sdpa", False, 1)
    timings = measure_kind(setting, BLOCKS, 0.3, 0.2)
    assert [each.layers for each in timings] == [3, 6]
    assert timings[1].flops > timings[0].flops
