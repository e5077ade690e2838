"""Launchers and ranks do not change the blocks of a step: composer, torchrun, two agents on one host, microbatches."""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from here import run_here
from runs import PREPARED, finish, overrides, run, start, steps

from padless.data.prepare import prepare
from padless.train.status import read_status

pytestmark = [pytest.mark.slow, pytest.mark.world, pytest.mark.composer]

BIN = Path(sys.executable).parent
STOP = {"run.stop_after_tokens": "9_000", "export.enabled": "false"}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    run_here(overrides(folder, **STOP))
    done = steps(folder / "smoke")
    assert len({line["batch_blocks"] for line in done}) > 1, "the ramp is among the first steps"
    return done


def same_blocks(done, expected):
    assert [line["blocks"] for line in done] == [line["blocks"] for line in expected]
    assert [line["batch_blocks"] for line in done] == [line["batch_blocks"] for line in expected]
    for line, reference in zip(done, expected, strict=True):
        assert line["loss"] == pytest.approx(reference["loss"], rel=1e-5), line["step"]
        assert line["grad_norm"] == pytest.approx(reference["grad_norm"], rel=1e-4), line["step"]


@pytest.mark.parametrize(
    "launcher",
    [
        (str(BIN / "composer"), "-n", "2"),
        (*TORCHRUN, "--standalone", "--nproc-per-node", "2"),
    ],
    ids=["composer", "torchrun"],
)
def test_two_ranks_under_a_launcher_take_the_same_blocks(tmp_path, one_rank, launcher):
    run(overrides(tmp_path, **STOP), launcher)
    same_blocks(steps(tmp_path / "smoke"), one_rank)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_torchrun_agents_of_one_rank_each_take_the_same_blocks(tmp_path, one_rank):
    port = free_port()
    common = (*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d")
    common += ("--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "padless", "--local-addr", "127.0.0.1")
    agents = [start(overrides(tmp_path, **STOP), (*common, "--node-rank", str(node))) for node in range(2)]
    for agent in agents:
        finish(agent)
    same_blocks(steps(tmp_path / "smoke"), one_rank)


def test_machines_with_run_folders_of_their_own_are_refused_before_the_first_step(tmp_path):
    static = (*TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1")
    static += ("--master-port", str(free_port()))
    agents = [start(overrides(tmp_path / f"{node}", **STOP), (*static, "--node-rank", str(node))) for node in range(2)]
    outputs = [finish(agent, expect=1) for agent in agents]
    assert all("is not the folder that rank 0 writes on" in output for output in outputs), outputs
    assert "share" in outputs[0]
    assert not any(steps(tmp_path / f"{node}" / "smoke") for node in range(2))


def test_a_group_that_torchrun_starts_again_goes_on(tmp_path, one_rank):
    restarting = (*TORCHRUN, "--standalone", "--nproc-per-node", "2", "--max-restarts", "1")
    process = start(overrides(tmp_path, **STOP), restarting)
    deadline = time.monotonic() + 200
    while (status := read_status(tmp_path / "smoke")) is None or status.checkpoint is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(status.pid, signal.SIGKILL)
    output = finish(process)
    assert "resumed phase" in output
    same_blocks(steps(tmp_path / "smoke"), one_rank)


def test_one_rank_that_is_asked_to_stop_stops_all_with_a_checkpoint(tmp_path):
    """What launch/slurm.sbatch does before the time limit: torchrun hears nothing, and counts no 30 seconds."""
    process = start(overrides(tmp_path), (*TORCHRUN, "--standalone", "--nproc-per-node", "2"))
    deadline = time.monotonic() + 200
    while process.poll() is None and len(steps(tmp_path / "smoke")) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(read_status(tmp_path / "smoke").pid, signal.SIGUSR1)
    finish(process, expect=1)
    status = read_status(tmp_path / "smoke")
    assert (status.state, status.exit_code) == ("stopped", 85)
    assert status.step == steps(tmp_path / "smoke")[-1]["step"]


def test_microbatch_size_does_not_change_losses(tmp_path, one_rank):
    run_here(overrides(tmp_path, **STOP, **{"hardware.microbatch_blocks": 2}))
    same_blocks(steps(tmp_path / "smoke"), one_rank)


def test_data_smaller_than_one_batch_trains_and_says_so(tmp_path):
    corpus = tmp_path / "tiny.jsonl"
    text = "A short text about nothing in particular, which is only here to be repeated."
    corpus.write_text("".join(json.dumps({"text": f"{number} {text}"}) + "\n" for number in range(12)))
    prepare(
        corpus,
        tmp_path / "tiny",
        PREPARED / "tokenizer.json",
        max_seq_len=(64, 256),
        block_tokens=256,
        val_fraction=0.2,
    )
    arguments = ["recipe=smoke", f"run.folder={tmp_path}", "run.stop_after_tokens=9_000", "export.enabled=false"]
    arguments += [f"data.streams.{name}.local={tmp_path / 'tiny'}" for name in ("general", "code", "science")]
    arguments += ["data.prepare_bundled=false"]
    output = run_here(arguments)
    assert "less than one batch" in output
    assert steps(tmp_path / "smoke")[-1]["tokens"] >= 9_000
