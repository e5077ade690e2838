"""Branches: where they begin, which of them are done, what their folder says while they and their trunk last."""

import io
import json
import os
from dataclasses import replace

import pytest
from composer.devices import DeviceCPU
from rich.console import Console

from padless.checkpoint import Checkpoint, checkpoint_path, save_checkpoint
from padless.config.branches import branch_config
from padless.config.compose import compose
from padless.config.load import to_plain, to_yaml
from padless.errors import CheckpointError, ConfigError, Stopped
from padless.schedule.phases import plan_phases
from padless.train.branch_report import BranchResult, branch_results, plot_branches, print_branches
from padless.train.branches import Reached, Ready, find_one_branch, train_branches
from padless.train.changes import branch_from
from padless.train.status import read_status, write_status
from padless.train.supervise import supervised
from padless.train.world import World

ALONE = World(0, 1, DeviceCPU(), None)
SHA = "0" * 64


@pytest.fixture
def lab(tmp_path):
    config = compose(["recipe=demo_branches", f"run.folder={tmp_path}"])
    (tmp_path / "demo_branches").mkdir()
    return config


@pytest.fixture
def trunk_folder(tmp_path):
    return tmp_path / "demo_branches"


@pytest.fixture
def end(lab, trunk_folder):
    clock = plan_phases(lab)[-1].actual_end_tokens
    return Reached(clock, checkpoint_path(trunk_folder, "context", clock))


def ready(said):
    return Ready(ALONE, None, None, Console(file=io.StringIO()), said.append)


def train_all(lab, trunk_folder, end, train_one, said=None):
    with supervised(trunk_folder, ALONE, print) as trunk:
        train_branches(lab, ready([] if said is None else said), trunk_folder, end, trunk, train_one)


def pretend(trained):
    """Return what stands for the training of one run: it notes the run, and leaves the config in its folder."""

    def train_one(config, ready, folder, supervisor, began_s):
        trained.append(config)
        (folder.path / "config.yaml").write_text(to_yaml(config))
        supervisor.stand_at(config.phase_order[-1], 10, 1, None)
        return Reached(10, folder.path)

    return train_one


def test_each_branch_is_a_run_of_its_own_from_where_the_phases_end(lab, trunk_folder, end):
    trained = []
    train_all(lab, trunk_folder, end, pretend(trained))
    assert [config.phase_order[-1] for config in trained] == ["even", "science", "code"]
    assert {config.start.source for config in trained} == {str(end.checkpoint)}
    for name in lab.branches:
        status = read_status(trunk_folder / "branches" / name)
        assert (status.state, status.phase, status.clock_tokens) == ("finished", name, 10)
    assert read_status(trunk_folder).state == "finished"


def test_a_branch_that_is_done_is_skipped_and_one_that_was_changed_is_not(lab, trunk_folder, end):
    train_all(lab, trunk_folder, end, pretend([]))
    trained, said = [], []
    train_all(lab, trunk_folder, end, pretend(trained), said)
    assert trained == []
    assert said[0] == f"branch 'even': done, in {trunk_folder / 'branches' / 'even'}"
    slower = replace(lab.branches["code"], weight_decay=0.1)
    train_all(replace(lab, branches={**lab.branches, "code": slower}), trunk_folder, end, pretend(trained))
    assert [config.run.name for config in trained] == ["code"]
    write_status(trunk_folder / "branches" / "even", "stopped", exit_code=85)
    train_all(lab, trunk_folder, end, pretend(trained))
    assert [config.run.name for config in trained[1:]] == ["even", "code"]


def test_phases_that_ended_early_have_no_branches(lab, trunk_folder, end):
    trained, said = [], []
    early = Reached(end.clock_tokens - 10_000, end.checkpoint)
    train_all(lab, trunk_folder, early, pretend(trained), said)
    assert trained == []
    assert said == ["branches not trained (even, science, code): they begin where the phases end, at 1.2M tokens"]
    assert not (trunk_folder / "branches").exists()


def test_a_signal_in_a_branch_stops_branch_and_trunk(lab, trunk_folder, end):
    def stopped(config, ready, folder, supervisor, began_s):
        supervisor.stop_together("stopped on SIGTERM at 1.3M tokens")

    with pytest.raises(Stopped, match=r"stopped on SIGTERM at 1\.3M tokens"):
        train_all(lab, trunk_folder, end, stopped)
    for folder in (trunk_folder / "branches" / "even", trunk_folder):
        status = read_status(folder)
        assert (status.state, status.exit_code) == ("stopped", 85)
        assert status.message == "stopped on SIGTERM at 1.3M tokens"
    assert not (trunk_folder / "branches" / "science").exists()


def test_a_lost_rank_is_in_the_status_of_branch_and_trunk(lab, trunk_folder, end):
    def lost(config, ready, folder, supervisor, began_s):
        supervisor.write_loss("rank 1 is gone", 2)
        seen.append([read_status(path).message for path in (folder.path, trunk_folder)])
        return Reached(10, folder.path)

    seen = []
    train_all(replace(lab, branches={"code": lab.branches["code"]}), trunk_folder, end, lost)
    assert seen == [["rank 1 is gone"] * 2]


def test_an_error_in_a_branch_names_its_settings_as_the_user_wrote_them(lab, trunk_folder, end):
    def fails(config, ready, folder, supervisor, began_s):
        raise ConfigError("phases.even.lr.peak=4 is too high", "lower phases.even.lr.peak")

    with pytest.raises(ConfigError) as caught:
        train_all(lab, trunk_folder, end, fails)
    assert caught.value.cause == "branches.even.lr.peak=4 is too high"
    assert caught.value.remedy == "lower branches.even.lr.peak"
    assert read_status(trunk_folder / "branches" / "even").state == "failed"
    assert read_status(trunk_folder).state == "failed"


def test_the_trunks_folder_is_held_while_a_branch_is_trained(lab, trunk_folder, end):
    def look(config, ready, folder, supervisor, began_s):
        held.append([json.loads((path / "run.lock").read_text())["pid"] for path in (folder.path, trunk_folder)])
        messages.append(read_status(trunk_folder).message)
        return Reached(10, folder.path)

    held, messages = [], []
    train_all(lab, trunk_folder, end, look)
    assert held == [[os.getpid()] * 2] * 3
    assert messages == ["branch 'even'", "branch 'science'", "branch 'code'"]
    assert not (trunk_folder / "run.lock").read_text().strip()


def saved_end(lab, folder, clock, phase="context", optimizer=True):
    import torch

    from padless.model.masked_lm import MaskedLM

    weights = MaskedLM(lab.model, lab.phases[phase].rope).state_dict()
    meta = {
        "config": to_plain(lab),
        "phase": phase,
        "clock_tokens": clock,
        "step": 3,
        "data": {"code": "a"},
        "tokenizer_sha256": SHA,
        "tokenizer_folder": str(folder / "tokenizer"),
        "train_seconds": 1.0,
    }
    moments = {"moments": {}, "group_steps": {"0": torch.tensor(3)}} if optimizer else None
    path = checkpoint_path(folder, phase, clock)
    save_checkpoint(path, Checkpoint(weights, moments, meta), "hash", kept="phase end")
    return path


def test_one_branch_alone_needs_the_end_of_the_phases_on_disk(lab, trunk_folder, end):
    asked = replace(lab, run=replace(lab.run, branch="code"))
    saved_end(lab, trunk_folder, 1_000_000)
    with pytest.raises(CheckpointError, match=r"run.branch=code begins where phase 'context' ends, at 1\.2M tokens"):
        find_one_branch(asked, ALONE)
    path = saved_end(lab, trunk_folder, end.clock_tokens)
    branch = find_one_branch(asked, ALONE)
    assert (branch.name, branch.path) == ("code", trunk_folder / "branches" / "code")
    assert branch.config == branch_config(asked, "code", str(path))
    assert branch.config.run.branch is None


def test_a_branch_differs_from_its_trunk_by_its_phase_alone(lab, trunk_folder, end):
    path = saved_end(lab, trunk_folder, end.clock_tokens)
    config = branch_config(lab, "science", str(path))
    state, changes = branch_from(str(path), config, {"code": "a"}, SHA, plan_phases(config))
    assert (state.clock_tokens, state.step) == (end.clock_tokens, 3)
    assert changes == ["phase_order: ['short', 'context'] -> ['short', 'context', 'science']"]


def test_weights_without_moments_are_no_beginning_at_their_clock(lab, trunk_folder, end):
    path = saved_end(lab, trunk_folder, end.clock_tokens, optimizer=False)
    config = branch_config(lab, "science", str(path))
    with pytest.raises(CheckpointError, match="holds weights only, no optimizer moments, and a run cannot go on"):
        branch_from(str(path), config, {"code": "a"}, SHA, plan_phases(config))


def write_metrics(folder, name, clocks, losses):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"tokens": clock, "phase": name, "loss": loss, "lr": 1e-3} for clock, loss in zip(clocks, losses, strict=True)
    ]
    lines.append({"tokens": clocks[-1], "eval_loss": losses[-1], "eval_loss_code": 4.0, "eval_loss_science": 3.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_results_are_the_last_validation_of_trunk_and_branches(lab, trunk_folder, tmp_path):
    write_metrics(trunk_folder, "context", [1_000_000, 1_200_128], [5.0, 4.5])
    write_metrics(trunk_folder / "branches" / "code", "code", [1_300_000, 1_500_000], [4.4, 4.2])
    results = branch_results(lab, trunk_folder)
    assert results[0] == BranchResult("(before)", 1_200_128, 4.5, {"code": 4.0, "science": 3.0})
    assert results[1] == BranchResult("even", 0, None, {})
    assert (results[3].name, results[3].tokens, results[3].loss) == ("code", 1_500_000, 4.2)
    out = io.StringIO()
    print_branches(results, Console(file=out, width=80))
    rows = [line.split() for line in out.getvalue().splitlines()[1:]]
    assert rows[0] == ["branch", "tokens", "loss", "code", "science"]
    assert rows[2] == ["even", "none", "yet"]
    assert rows[4] == ["code", "1.5M", "4.2000*", "4.0000*", "3.0000*"]
    plot_branches(lab, trunk_folder, tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_size > 10_000


def test_without_a_step_of_a_branch_there_is_no_picture(lab, trunk_folder, tmp_path):
    write_metrics(trunk_folder, "context", [1_000_000], [5.0])
    plot_branches(lab, trunk_folder, tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()
