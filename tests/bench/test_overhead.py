"""The overhead of a step: sums over the right steps, differences side by side, and both sides as real processes."""

import json
import os

import pytest

from padless.bench.overhead import Cut, as_result, bench, overhead_arguments, quiet_ms, run_together
from padless.config.check import check
from padless.config.compose import compose
from padless.errors import ConfigError, TrainingError


def steps(phase, seconds):
    return [{"phase": phase, "cpu_seconds": each} for each in seconds]


def test_a_step_is_the_lower_quartile_of_windows_of_ten_without_the_first_twenty():
    windows = [0.009, 0.005, 0.007, 0.006, 0.008]
    seconds = [1.0] * 20 + [window + (0.01 if number == 0 else 0.0) for window in windows for number in range(10)]
    found = quiet_ms([*steps("short", seconds), *steps("context", [0.002] * 40)])
    assert found == {"short": pytest.approx(7.0), "context": pytest.approx(2.0)}  # 6 ms, and 1 ms of the ten in one


def test_what_is_added_is_the_difference_of_two_processes_of_one_repeat():
    measured = {
        "bare loop": [{"short": 8.0, "context": 50.0}, {"short": 10.0, "context": 60.0}],
        "trainer": [{"short": 9.0, "context": 52.4}, {"short": 11.5, "context": 62.2}],
    }
    result = as_result(measured, Cut(8, 200))
    step, further = result.ratios
    assert step.values == (1.0, 1.5)
    assert further.values == (pytest.approx(1.4 / 7), pytest.approx(0.1))
    assert (step.holds, further.holds) == (True, True)
    assert len(result.figures) == 4
    slow = {**measured, "trainer": [{"short": 11.0, "context": 60.0}, {"short": 13.0, "context": 70.0}]}
    assert [ratio.holds for ratio in as_result(slow, Cut(8, 200)).ratios] == [False, False]


def test_both_sides_get_one_phase_of_one_microbatch_and_one_of_several(tmp_path):
    config = compose(overhead_arguments(tmp_path, Cut(8, 200)))
    check(config, 1)
    blocks = {name: phase.batch.blocks for name, phase in config.phases.items()}
    assert blocks == {"short": 1, "context": 8}
    steps_of = {name: phase.tokens // (phase.batch.blocks * 256) for name, phase in config.phases.items()}
    assert steps_of == {"short": 1_600, "context": 200}
    assert config.hardware.microbatch_blocks == 1


@pytest.mark.parametrize("setting", ["repeats=0", "steps=39", "microbatches=1"])
def test_what_measures_nothing_is_refused(setting, tmp_path):
    with pytest.raises(ConfigError, match=rf"{setting} is less than \d+\n.*use e.g."):
        bench([setting, f"folder={tmp_path}"], as_json=False)


def test_a_process_that_fails_is_named_with_its_log_and_the_other_is_ended(tmp_path):
    pid = tmp_path / "pid"
    waits = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(600)"
    fails = tmp_path / "fails.py"
    fails.write_text(f"import pathlib, sys\nwhile not pathlib.Path({str(pid)!r}).exists(): pass\nsys.exit(3)\n")
    with pytest.raises(TrainingError, match=r"fails.py 1 ended with code 3\n.*read .*a\.log"):
        run_together({tmp_path / "a.log": [str(fails), "1"], tmp_path / "b.log": ["-c", waits]})
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.fixture
def own_cores():
    """What the bench pins to one core is free again afterwards."""
    import torch

    cores, threads = os.sched_getaffinity(0), torch.get_num_threads()
    yield
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.composer
@pytest.mark.usefixtures("own_cores")
def test_the_bench_runs_both_sides_and_publishes(tmp_path, capsys):
    bench(["repeats=1", "steps=40", "microbatches=2", f"folder={tmp_path}"], as_json=True)
    plain = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (plain["bench"], len(plain["figures"]), len(plain["ratios"])) == ("overhead", 4, 2)
    assert all(value > 0 for figure in plain["figures"] for value in figure["values"])
    assert {path.name for path in tmp_path.glob("overhead.*")} == {"overhead.json", "overhead.md", "overhead.png"}
