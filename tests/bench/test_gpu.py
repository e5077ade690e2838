"""``padless bench gpu``: refused without a GPU; its jobs and its table on a CPU."""

import json
import subprocess

import pytest
import torch

from padless.bench import gpu, gpu_jobs
from padless.bench.command import bench_command
from padless.errors import ConfigError, TrainingError
from padless.kernels.select import VARIABLE

SMALL = {"device_type": "cpu", "shape": "tiny", "case": "short", "tokens": 1024, "seed": 0}


def in_this_process(job, environment):
    told = dict(job)
    return gpu_jobs.JOBS[told.pop("job")](**{**told, "is_compiled": False} if "is_compiled" in told else told)


def test_without_a_gpu_it_says_so_and_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"needs a CUDA GPU, and torch .* sees none\n.*padless bench step"):
        bench_command(["gpu"], as_json=False)


@pytest.mark.parametrize(
    ("argument", "message"),
    [("shape=huge", "huge is not a shape"), ("cases=no", "cases=no"), ("steps=0", "steps=0"), ("step=1", "step=1")],
)
def test_wrong_settings_are_refused_before_the_gpu_is_looked_for(argument, message):
    with pytest.raises(ConfigError, match=message):
        gpu.bench([argument], as_json=False)


def test_settings_are_what_was_asked_for(tmp_path):
    plan = gpu.parse(["shape=nano", "cases=web", "steps=2", "tokens=8192", f"folder={tmp_path}"])
    assert plan == gpu.Plan("nano", ("web",), 2, 5, 8192, 3, 0, tmp_path)


def test_the_jobs_count_real_tokens_and_the_table_has_every_side(tmp_path):
    plan = gpu.Plan("tiny", ("short",), 2, 1, 1024, 1, 0, tmp_path)
    told = []
    result = gpu.measure(plan, "cpu", in_this_process, told.append)
    rates = {figure.who: figure for figure in result.figures if figure.unit == "real tokens/s"}
    assert set(rates) == {gpu.KERNELS, gpu.PLAIN, gpu.COMPILED, "collate, pin, copy"}
    assert all(value > 0 for figure in rates.values() for value in figure.values)
    attention = {figure.case for figure in result.figures if figure.who == "sdpa"}
    assert attention == {f"attention {length} {kind}" for length in (128, 1024) for kind in ("global", "local")}
    assert len(result.ratios) == 3
    assert len(told) == 4
    assert f"{gpu.KERNELS}: kernels: plain; the device is cpu, not a CUDA GPU" in result.notes
    assert not [figure for figure in result.figures if figure.unit == "MFU"]


def test_a_batch_is_filled_up_to_fixed_rows():
    workload = gpu_jobs.draw_workload(gpu_jobs.CASES["short"], 2, 1024, 2048, 0, gpu_jobs.MASK_RATE)
    batch = gpu_jobs.device_batch(workload, 1, 1024)
    assert batch.labels_M.shape == (512,)
    assert batch.num_masked == workload.masked(workload.packed[1])
    assert batch.num_real_tokens == sum(workload.lengths(workload.packed[1]))


def test_a_side_without_kernels_is_a_process_that_was_told_so(monkeypatch):
    seen = {}

    def run(command, **rest):
        seen.update(rest["env"])
        return subprocess.CompletedProcess(command, 0, 'chatter\n{"tokens_per_s": [1.0]}\n', "")

    monkeypatch.setenv(VARIABLE, "auto")
    monkeypatch.setattr(subprocess, "run", run)
    assert gpu.run_in_process({"job": "feed"}, {VARIABLE: "plain"}) == {"tokens_per_s": [1.0]}
    assert seen[VARIABLE] == "plain"


@pytest.mark.slow
def test_a_process_does_a_job_and_a_failure_is_named():
    figures = gpu.run_in_process({**SMALL, "job": "feed", "repeats": 2}, {})
    assert len(figures["tokens_per_s"]) == 2
    assert json.dumps(figures)
    with pytest.raises(TrainingError, match=r"the process of feed ended with code 1: .*huge is not a shape"):
        gpu.run_in_process({**SMALL, "job": "feed", "repeats": 2, "shape": "huge"}, {})


@pytest.mark.gpu
def test_the_whole_bench_runs_on_a_gpu(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    arguments = ["shape=nano", "cases=web", "steps=2", "warmup=1", "tokens=8192", "repeats=1", f"folder={tmp_path}"]
    gpu.bench(arguments, as_json=True)
    plain = json.loads((tmp_path / "gpu.json").read_text())
    assert {each["who"] for each in plain["figures"]} >= {gpu.KERNELS, gpu.PLAIN, gpu.COMPILED, "varlen"}
    assert (tmp_path / "gpu.png").exists()
