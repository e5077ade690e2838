"""Shapes timed with the real encoder beside their prediction; no time is compared that noise could turn round."""

import dataclasses
import json

import pytest
import torch

from padless.design import measure, timing
from padless.design.report import correlation_line, measured_table
from padless.design.search import Workload, search, workloads_of
from padless.design.shapes import Grid, published_shapes, shape_name, shape_of
from padless.errors import TrainingError
from padless.plan.devices import GPUS

SMALL, MIDDLE, LARGE = (shape_of(*sizes, 2048) for sizes in ((2, 64, 64), (4, 384, 576), (8, 768, 1152)))


def test_a_gpu_of_the_table_is_known_by_its_drivers_name_and_no_other_is_taken_for_it():
    for name, key in (
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A10", "a10"),
        ("Tesla T4", "t4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
    ):
        assert measure.gpu_of_driver(name) == GPUS[key]
    for name in ("NVIDIA A10G", "NVIDIA L40", "NVIDIA GeForce RTX 3090 Ti", "Tesla V100-SXM2-16GB"):
        assert measure.gpu_of_driver(name) is None


def test_a_cpu_times_single_segments_and_a_gpu_all():
    workloads = workloads_of(8192, 512, 65_536)
    names = {}
    for kind in ("cpu", "cuda"):
        machine = measure.Machine(kind, kind, None, {})
        names[kind] = [each.name for each in measure.workloads_here(machine, workloads)]
    assert names == {"cpu": ["1 x 512", "1 x 8192"], "cuda": ["1 x 512", "128 x 512", "1 x 8192", "8 x 8192"]}


def test_timed_shapes_are_the_published_and_others_from_shallow_to_deep():
    grid = Grid(4, 40, 1.0, 4.0, True, None, 50_368)
    found = search(grid, 149_000_000, 0.02, [GPUS["t4"]], workloads_of(8192, 512, 65_536))
    shapes = measure.shapes_to_time(found, 6)
    assert shapes[0] == published_shapes()["ModernBERT-base"]
    depths = [model.num_layers for model in shapes[1:]]
    assert depths == sorted(depths)
    assert (depths[0], depths[-1], len(depths)) == (4, 40, 5)
    assert len(measure.shapes_to_time(found, 10_000)) == len(found.candidates)


def test_a_forward_pass_is_timed_by_workload():
    took = timing.time_shape(dataclasses.asdict(SMALL), "cpu", [[1, 64], [2, 256]], 2)
    assert took["backend"] == "blocked"
    assert len(took["seconds"]) == 2
    assert min(took["seconds"]) > 0


def test_an_unknown_device_has_times_and_no_correlation():
    timings = [measure.Timing(SMALL, None, (0.1,)), measure.Timing(LARGE, None, (0.2,))]
    workloads = (Workload(1, 64),)
    measured = measure.Measured("a GPU", {}, workloads, timings, measure._correlations(timings, workloads))
    assert measured.correlation == {"1 x 64": None, "all": None}
    assert "unknown" in correlation_line(measured)
    assert measured_table(measured).row_count == 2


@pytest.mark.slow
def test_a_process_that_fails_is_named_with_its_log(tmp_path):
    machine = measure.Machine("no such device", "none", None, {})
    with pytest.raises(TrainingError, match=r"the process of padless.design.timing:time_shape failed \(code 1\)") as e:
        measure._time(SMALL, machine, [Workload(1, 64)], 1, tmp_path)
    assert f"read {tmp_path}/2x64x64.log" in e.value.remedy


@pytest.mark.slow
def test_the_prediction_orders_shapes_of_ten_fold_work_as_this_machine_does():
    said = []
    workloads = workloads_of(512, 128, 512)
    measured = measure.measure([MIDDLE, SMALL, LARGE], workloads, 2, said.append)
    if measured.device != "one CPU core":
        pytest.skip("this machine has a GPU")
    assert set(measured.rates) == {"gflops", "bandwidth_gb_s", "attention_gflops"}
    assert min(measured.rates.values()) > 0
    assert [shape_name(each.model) for each in measured.timings] == ["4x384x576", "2x64x64", "8x768x1152"]
    assert measured.correlation == pytest.approx({"1 x 128": 1.0, "1 x 512": 1.0, "all": 1.0})
    assert len(said) == 4


@pytest.mark.gpu
def test_shapes_are_timed_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    measured = measure.measure([SMALL, LARGE], workloads_of(8192, 512, 65_536), 2, print)
    assert measured.device == torch.cuda.get_device_name()
    assert all(len(each.measured_s) == 4 and min(each.measured_s) > 0 for each in measured.timings)
    print(json.dumps(measured.correlation))
