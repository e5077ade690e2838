"""Changed settings on a resume and in a branch: free, accepted by name, or refused with old and new value."""

import pytest
import torch

from padless.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from padless.config.compose import compose
from padless.config.load import to_plain
from padless.errors import CheckpointError
from padless.model.masked_lm import MaskedLM
from padless.schedule.phases import plan_phases
from padless.train.changes import all_changes, branch_from, changes_of_the_past, refuse_changes

CLOCK = 20_480
HASHES = {"code": "old", "general": "g"}


def saved(folder, *overrides, clock=CLOCK):
    config = compose(["recipe=smoke", *overrides])
    meta = {
        "config": to_plain(config), "phase": "short", "clock_tokens": clock, "step": 20, "data": HASHES,
        "train_seconds": 1.0, "tokenizer_sha256": "0" * 64, "skipped": [["short", 4, 4]],
        "tokenizer_folder": "tokenizer", "recent_losses": [5.0],
    }  # fmt: skip
    path = folder / f"short-{clock:_}tok.pt"
    moments = {"moments": {}, "group_steps": {"0": torch.tensor(3)}}
    save_checkpoint(
        path, Checkpoint(MaskedLM(config.model, config.phases["short"].rope).state_dict(), moments, meta), "hash"
    )
    return path


def changes(path, *overrides, hashes=HASHES):
    return changes_of_the_past(load_checkpoint(path).meta, compose(["recipe=smoke", *overrides]), hashes)


@pytest.mark.parametrize(
    "free",
    [
        "run.stop_after_tokens=30_000",
        "run.keep_newest_checkpoints=null",
        "hardware.microbatch_blocks=2",
        "loggers.tensorboard=false",
        "phases.short.save_every_tokens=7K",
        "phases.anneal.lr.peak=1e-3",
        "data.num_workers=1",
        "data.verify=all",
        "guard=rewind",
        "run.log_every_steps=50",
    ],
)
def test_what_does_not_change_the_past_may_change(tmp_path, free):
    assert changes(saved(tmp_path), free, hashes={**HASHES, "later": "x"}) == []


CHANGED = [
    ("run.seed=3", "run.seed", "run.seed: 17 -> 3"),
    ("phases.short.shuffle_seed=5", "phases.short.shuffle_seed", "phases.short.shuffle_seed: 17 -> 5"),
    ("data.shuffle=false", "data.shuffle", "data.shuffle: True -> False"),
    ("data.num_canonical_nodes=2", "data.num_canonical_nodes", "data.num_canonical_nodes: 1 -> 2"),
    ("phases.short.weight_decay=0.1", "phases.short.weight_decay", "phases.short.weight_decay: 1e-05 -> 0.1"),
]


@pytest.mark.parametrize(("override", "name", "line"), CHANGED, ids=[row[1] for row in CHANGED])
def test_what_changes_the_past_is_refused_with_old_and_new_and_the_switch_that_accepts_it(
    tmp_path, override, name, line
):
    found = changes(saved(tmp_path), override)
    assert found == [line]
    with pytest.raises(CheckpointError) as caught:
        refuse_changes(found, (), "runs/a")
    assert caught.value.cause == f"runs/a belongs to another config; old -> new: {line}"
    assert caught.value.remedy.endswith(f"to go on with the change on purpose: run.accept_changes=[{name}]")
    refuse_changes(found, (name,), "runs/a")


def test_other_data_is_refused_by_its_content(tmp_path):
    found = changes(saved(tmp_path), hashes={**HASHES, "code": "new"})
    assert found == ["data.streams.code: content old -> new"]
    with pytest.raises(CheckpointError, match=r"run\.accept_changes=\[data\.streams\.code\]"):
        refuse_changes(found, (), "runs/a")
    refuse_changes(found, ("data.streams.code",), "runs/a")


def test_what_gives_weights_or_clock_another_meaning_has_no_switch(tmp_path):
    found = changes(saved(tmp_path), "phases.short.tokens=15K", "run.seed=3", "phases.short.batch.warmup=null")
    with pytest.raises(CheckpointError) as caught:
        refuse_changes(found, ("run.seed",), "runs/a")
    assert "phases.short.tokens: 50000 -> 15000" in caught.value.cause
    assert "run.seed" not in caught.value.cause
    assert "accept_changes" not in caught.value.remedy


BRANCH = ["start=source", "start.source=x", "start.keep=[weights,optimizer,clock]"]


def branch(path, *overrides, hashes=HASHES):
    config = compose(["recipe=smoke", *BRANCH, *overrides])
    return branch_from(str(path), config, hashes, "0" * 64, plan_phases(config))


def test_a_branch_keeps_clock_step_moments_and_blocks_left_out_and_changes_rates_freely(tmp_path):
    path = saved(tmp_path)
    state, found = branch(path, "phases.short.lr.peak=1e-4", "phases.short.weight_decay=1e-6", "run.seed=5")
    assert (state.clock_tokens, state.step, state.phase, state.recent_losses) == (CLOCK, 20, "short", (5.0,))
    assert state.optimizer is not None
    assert [(each.phase, each.first_block, each.num_blocks) for each in state.skipped] == [("short", 4, 4)]
    assert "phases.short.lr.peak: 0.004 -> 0.0001" in found
    assert "phases.short.weight_decay: 1e-05 -> 1e-06" in found
    assert not [line for line in found if line.startswith(("start", "init", "run.name"))]
    later = branch(path, "phases.anneal.lr.peak=1e-5", "run.log_every_steps=7", "run.name=other")[1]
    assert later == ["run.log_every_steps: 1 -> 7", "phases.anneal.lr.peak: 0.004 -> 1e-05"], (
        "also what is still to come"
    )


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("phases.short.shuffle_seed=5", "phases.short.shuffle_seed: 17 -> 5"),
        ("phases.short.streams.code=0.5", "phases.short.streams.code: 0.25 -> 0.5"),
        ("data.shuffle=false", "data.shuffle: True -> False"),
        ("model.num_layers=4", "model.num_layers: 2 -> 4"),
        ("phases.short.tokens=60K", "phases.short.tokens: 50000 -> 60000"),
    ],
)
def test_a_branch_whose_data_would_not_go_on_is_refused(tmp_path, override, line):
    with pytest.raises(CheckpointError) as caught:
        branch(saved(tmp_path), override, "phases.short.lr.peak=1e-4")
    assert line in caught.value.cause
    assert "lr.peak" not in caught.value.cause


def test_a_branch_on_other_data_can_be_accepted(tmp_path):
    path = saved(tmp_path)
    other = {**HASHES, "code": "new"}
    with pytest.raises(CheckpointError, match="content old -> new"):
        branch(path, hashes=other)
    _, found = branch(path, "run.accept_changes=[data.streams.code]", hashes=other)
    assert found == ["data.streams.code: content old -> new"]


def test_a_branch_needs_a_clock_something_to_train_and_the_same_tokenizer(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder, which has no clock"):
        branch(tmp_path)
    with pytest.raises(CheckpointError, match="stands at 98_304 tokens, the phases end at 98_000"):
        branch(saved(tmp_path, clock=98_304))
    config = compose(["recipe=smoke", *BRANCH])
    with pytest.raises(CheckpointError, match=r"was trained with another tokenizer \(0{12}\)"):
        branch_from(str(saved(tmp_path)), config, HASHES, "f" * 64, plan_phases(config))


def test_all_settings_that_differ_are_listed():
    old, new = compose(["recipe=smoke"]), compose(["recipe=smoke", "hardware.num_threads=1", "run.seed=1"])
    assert all_changes(old, new) == ["run.seed: 17 -> 1", "hardware.num_threads: None -> 1"]
    assert all_changes(old, old) == []
