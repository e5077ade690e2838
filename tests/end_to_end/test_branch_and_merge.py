"""The anneal lab: three branches from one stable run, a merge, one table; killed, stopped and alone as any run."""

import contextlib
import io
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from here import refusal, run_here
from lab import MIXTURES, lab_overrides
from runs import finish, metrics, overrides, start, steps

from padless.checkpoint import open_checkpoint
from padless.cli import main
from padless.export.command import export_checkpoint
from padless.train.status import read_status

pytestmark = [pytest.mark.slow, pytest.mark.composer]

COMPOSER = (str(Path(sys.executable).parent / "composer"), "-n", "2")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The whole lab, trained once; its folder, and what was printed."""
    base = tmp_path_factory.mktemp("lab")
    return base / "lab", run_here(lab_overrides(base))


def branch(lab_folder: Path, name: str) -> Path:
    return lab_folder / "branches" / name


def last_checkpoint(run_folder: Path, name: str) -> Path:
    return max((run_folder / "checkpoints" / name).glob("*.pt"), key=lambda path: path.stat().st_mtime_ns)


def test_three_branches_and_their_merge_are_in_one_table(lab, tmp_path, capsys):
    folder, output = lab
    losses = {name: metrics(branch(folder, name))[-1]["eval_loss"] for name in MIXTURES}
    table = output[output.index("branches: validation loss") :]
    rows = {line.split()[0]: line.split() for line in table.splitlines() if line.split()}
    for name, loss in losses.items():
        assert rows[name][2].rstrip("*") == f"{loss:.4f}"
        assert read_status(branch(folder, name)).state == "finished"
        assert (branch(folder, name) / "hf" / "model.safetensors").is_file()
    assert (folder / "branches.png").stat().st_size > 10_000
    names = [str(branch(folder, name)) for name in MIXTURES]
    assert main(["merge", *names, f"out={tmp_path / 'merged'}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["loss"] for row in found["rows"][:3]] == [pytest.approx(loss, rel=1e-6) for loss in losses.values()]
    assert set(found["rows"][-1]["loss_by_stream"]) == set(MIXTURES) - {"even"} | {"general"}
    assert all(0 <= row["accuracy"] <= 1 for row in found["rows"])
    merged, _ = open_checkpoint(Path(found["out"]))
    weights = [open_checkpoint(last_checkpoint(branch(folder, name), name))[0].model for name in MIXTURES]
    name = "model.layers.0.mlp.Wi.weight"
    assert torch.allclose(merged.model[name], sum(each[name] for each in weights) / 3, atol=1e-7)
    assert merged.meta["eval_loss"] == found["rows"][-1]["loss"]
    assert main(["evaluate", f"{names[0]}@latest", found["out"], f"run={names[1]}", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["rows"]
    right = [found["rows"][0]["loss"], found["rows"][-1]["loss"], found["rows"][1]["loss"]]
    assert [measured[0]["loss"], measured[1]["loss"], measured[-1]["loss"]] == pytest.approx(right, rel=1e-6)
    export_checkpoint(Path(found["out"]), tmp_path / "hf")
    assert "these weights are a mean: 0.333 x even" in (tmp_path / "hf" / "README.md").read_text()
    more = {"run.stop_after_tokens": 600, "start.source": found["out"], "phases.short.lr.warmup_tokens": 0}
    assert f"weights from {found['out']}" in run_here(["start=source", *overrides(tmp_path, **more)])
    keep = {**more, "run.name": "clock", "start.keep": "[weights,optimizer,clock]"}
    assert "holds weights only" in refusal(["start=source", *overrides(tmp_path, **keep)])


def test_a_branch_is_bit_for_bit_the_phase_that_follows_in_one_run(lab, tmp_path):
    folder, _ = lab
    phase = [word.replace("branches.code.", "phases.code.") for word in lab_overrides(tmp_path)]
    phase = [word.replace("phase@branches.code", "phase@phases.code") for word in phase]
    alone = [word for word in phase if "branches." not in word and not word.startswith("phase_order")]
    run_here([*alone, "phase_order=[short,context,code]", "export.enabled=false"])
    whole = metrics(tmp_path / "lab")
    trunk, after = metrics(folder), metrics(branch(folder, "code"))
    assert [line for line in whole if line["phase"] != "code"] == trunk
    assert [line for line in whole if line["phase"] == "code"] == after
    assert len([line for line in after if "loss" in line]) == 12


def test_a_kill_in_a_branch_loses_nothing_and_done_branches_are_skipped(lab, tmp_path):
    folder, _ = lab
    more = {"export.enabled": "false"}
    killed = start(lab_overrides(tmp_path, **more), env={"PADLESS_KILL_AT": "save_before_sidecar:5:0:rank"})
    output = finish(killed, expect=-signal.SIGKILL)
    assert "branch 'code': from" in output
    resumed = run_here(lab_overrides(tmp_path, **more))
    assert f"branch 'even': done, in {branch(tmp_path / 'lab', 'even')}" in resumed
    for name in MIXTURES:
        assert metrics(branch(tmp_path / "lab", name)) == metrics(branch(folder, name))


@pytest.mark.world
def test_a_stop_signal_in_a_branch_of_two_ranks_is_known_to_the_trunk_and_one_rank_goes_on(lab, tmp_path):
    folder, _ = lab
    more = {"export.enabled": "false", "branches.even.tokens": "60K"}
    process = start(lab_overrides(tmp_path, **more), COMPOSER)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None and not steps(branch(tmp_path / "lab", "even")):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    output = finish(process, expect=None)
    for path in (tmp_path / "lab", branch(tmp_path / "lab", "even")):
        status = read_status(path)
        assert (status.state, status.exit_code) == ("stopped", 85), output
        assert "tokens with " in status.message
    done = steps(branch(tmp_path / "lab", "even"))
    expected = steps(branch(folder, "even"))[: len(done)]
    assert [line["blocks"] for line in done[:12]] == [line["blocks"] for line in expected]
    resumed = run_here(lab_overrides(tmp_path, **{**more, "run.branch": "even", "branches.even.tokens": "60K"}))
    assert "resumed phase even" in resumed
    assert read_status(branch(tmp_path / "lab", "even")).state == "finished"


def test_two_branches_can_be_compared(lab, capsys):
    folder, _ = lab
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["diff", str(branch(folder, "even")), str(branch(folder, "code")), "--json"]) == 0
    found = json.loads(out.getvalue())
    assert found["losses"]["from_tokens"] == 14_336
    assert found["branches"]["a"] == found["branches"]["b"]
