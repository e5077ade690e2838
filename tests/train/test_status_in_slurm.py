"""When the Slurm script requeues a job, and whom it asks for a checkpoint; stand-ins play Slurm's commands."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from padless.run_files import STATUS
from padless.train.status import write_status

SCRIPT = Path(__file__).parents[2] / "launch" / "slurm.sbatch"
A_STEP_BESIDE = 'if [ "$1" = --overlap ]; then while [ "$1" != bash ]; do shift; done; exec "$@"; fi'


@pytest.fixture
def submit(tmp_path):
    """Return a function that starts the script with what the job's step does, a shell line."""
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)

    def submit(step):
        commands = tmp_path / "bin"
        commands.mkdir()
        for name, line in {
            "srun": f"{A_STEP_BESIDE}\n{step}",
            "scontrol": 'if [ "$1" = requeue ]; then touch requeued; else echo node-0; fi',
            "scancel": "touch cancelled",
        }.items():
            (commands / name).write_text(f"#!/bin/bash\n{line}\n")
            (commands / name).chmod(0o755)
        slurm = {"SUBMIT_DIR": str(tmp_path), "JOB_NODELIST": "node-0", "JOB_ID": "7", "NNODES": "1"}
        return subprocess.Popen(
            ["bash", str(SCRIPT), "recipe=smoke", f"run.folder={tmp_path / 'runs'}", "run.name=a"],
            env={
                **os.environ,
                "PATH": f"{commands}:{os.environ['PATH']}",
                **{f"SLURM_{name}": value for name, value in slurm.items()},
            },
            stdout=subprocess.PIPE,
            text=True,
        )

    submit.run, submit.requeued = run, tmp_path / "requeued"
    return submit


def written_by_the_step(run, state, exit_code, clock_tokens=None):
    """Write what a step will write, beside the place, and return the line that puts it there."""
    later = run / "later"
    later.mkdir()
    write_status(later, state, exit_code=exit_code, message="of this attempt", clock_tokens=clock_tokens)
    return f"mv {later / STATUS} {run / STATUS}; exit 1"


def a_step_that_runs(run, on_usr1):
    """Return what a rank 0 does that runs until a signal; ``cancelled`` ends it, as SIGTERM to all would."""
    running = run / "running"
    running.mkdir()
    write_status(running, "running", clock_tokens=40)
    own = f'sed -E "s/\\"pid\\": [0-9]+/\\"pid\\": $$/" {running / STATUS} > {run / STATUS}'
    return f"trap '{on_usr1}' USR1; {own}; touch begun; while [ ! -e cancelled ]; do sleep 0.05; done; exit 1"


def wait_for(path):
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_run_that_a_signal_stopped_is_requeued(submit):
    write_status(submit.run, "stopped", exit_code=85)
    process = submit(written_by_the_step(submit.run, "stopped", 85))
    assert "stopped on a signal with a checkpoint: requeued" in process.communicate(timeout=30)[0]
    assert (process.returncode, submit.requeued.exists()) == (1, True)


def test_an_85_of_an_attempt_before_this_one_requeues_nothing(submit):
    write_status(submit.run, "stopped", exit_code=85)
    process = submit("exit 1")  # a wrong setting: the run's folder is not reached
    process.communicate(timeout=30)
    assert (process.returncode, submit.requeued.exists()) == (1, False)


@pytest.mark.parametrize(("step", "code"), [("failed", 2), ("finished", 0), ("none", None)])
def test_a_run_that_failed_or_finished_is_not_requeued(submit, step, code):
    write_status(submit.run, "stopped", exit_code=85)
    line = "rm runs/a/status.json; exit 1" if step == "none" else written_by_the_step(submit.run, step, code)
    process = submit(line)
    process.communicate(timeout=30)
    assert (process.returncode, submit.requeued.exists()) == (1, False)


def test_a_job_that_is_preempted_before_its_run_begins_is_requeued(submit, tmp_path):
    process = submit("touch begun; while [ ! -e cancelled ]; do sleep 0.05; done; exit 1")
    wait_for(tmp_path / "begun")
    process.send_signal(signal.SIGTERM)
    assert "stopped before the run began: requeued" in process.communicate(timeout=30)[0]
    assert (process.returncode, submit.requeued.exists()) == (1, True)


def output_after_sigusr1(process, folder):
    """Send what Slurm sends before the time limit, once the step has begun."""
    wait_for(folder / "begun")
    process.send_signal(signal.SIGUSR1)
    return process.communicate(timeout=60)[0]


def test_shortly_before_the_time_limit_rank_0_alone_is_asked_for_a_checkpoint(submit, tmp_path):
    saved = written_by_the_step(submit.run, "stopped", 85)
    output = output_after_sigusr1(submit(a_step_that_runs(submit.run, saved)), tmp_path)
    assert "was asked for a checkpoint" in output
    assert "stopped on a signal with a checkpoint: requeued" in output
    assert (submit.requeued.exists(), (tmp_path / "cancelled").exists()) == (True, False)


def test_where_rank_0_is_not_reached_all_are_asked_and_a_lost_checkpoint_is_no_end(submit, tmp_path):
    step = a_step_that_runs(submit.run, "exit 1").replace("$$/", "999999999/")
    output = output_after_sigusr1(submit(step), tmp_path)
    assert "asking the ranks for a checkpoint" in output
    assert "stopped on a signal, without a checkpoint in time: requeued" in output
    assert (submit.requeued.exists(), (tmp_path / "cancelled").exists()) == (True, True)


@pytest.mark.parametrize(("before", "after", "is_requeued"), [(None, 40, True), (40, 41, True), (40, 40, False)])
def test_a_run_that_failed_is_requeued_where_its_attempt_wrote_a_newer_checkpoint(submit, before, after, is_requeued):
    if before is not None:
        write_status(submit.run, "failed", exit_code=2, clock_tokens=before)
    process = submit(written_by_the_step(submit.run, "failed", 2, after))
    output = process.communicate(timeout=30)[0]
    assert ("newer checkpoint than it began with (of this attempt): requeued" in output) is is_requeued, output
    assert (process.returncode, submit.requeued.exists()) == (1, is_requeued)


def test_the_step_gets_the_cpus_of_its_job(submit, tmp_path):
    submit(f'echo "$@" > {tmp_path / "step"}; exit 1').communicate(timeout=30)
    assert "--cpus-per-task=64" in (tmp_path / "step").read_text()
