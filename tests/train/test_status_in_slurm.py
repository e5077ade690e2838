"""The Slurm script requeues a job for an 85 of its own attempt, and for no other; stand-ins play Slurm's commands."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from padless.run_files import STATUS
from padless.train.status import write_status

SCRIPT = Path(__file__).parents[2] / "launch" / "slurm.sbatch"


@pytest.fixture
def submit(tmp_path):
    """Return a function that starts the script with what the job's step does, a shell line."""
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)

    def submit(step):
        commands = tmp_path / "bin"
        commands.mkdir()
        for name, line in {
            "srun": step,
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


def written_by_the_step(run, state, exit_code):
    """Write what a step will write, beside the place, and return the line that puts it there."""
    later = run / "later"
    later.mkdir()
    write_status(later, state, exit_code=exit_code, message="of this attempt")
    return f"mv {later / STATUS} {run / STATUS}; exit 1"


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
    until = time.monotonic() + 30
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert "stopped before the run began: requeued" in process.communicate(timeout=30)[0]
    assert (process.returncode, submit.requeued.exists()) == (1, True)
