"""Ranks come and go, finished runs grow, branches go on: the blocks of every step are those the clock says."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from here import copy_of, refusal, run_here, smoke_run
from runs import metrics, overrides, run, steps

from padless.checkpoint import load_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.composer]

QUANTUM = [f"phases.{name}.batch.{key}" for name in ("short", "context", "anneal") for key in ("quantum_blocks=4",)]
FOUR = ["phases.short.batch.blocks=8", "phases.short.batch.warmup.from_blocks=4", *QUANTUM]
END = 24_000


def torchrun(ranks):
    return (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))


def lineage(folder):
    return [json.loads(line) for line in (folder / "smoke" / "lineage.jsonl").read_text().splitlines()]


def same_steps(folder, expected):
    done = steps(folder / "smoke")
    assert [line["blocks"] for line in done] == [line["blocks"] for line in expected]
    assert [line["tokens"] for line in done] == [line["tokens"] for line in expected]
    for line, reference in zip(done, expected, strict=True):
        assert line["loss"] == pytest.approx(reference["loss"], rel=1e-5), line["step"]


@pytest.mark.world
def test_blocks_are_the_same_on_1_2_and_4_ranks_and_when_the_ranks_change_2_1_2(tmp_path):
    """Losses within 1e-5, in fp32 and without dropout: sums of other microbatches round otherwise."""
    arguments = {"export.enabled": "false", "hardware.num_threads": 1}
    run_here([*overrides(tmp_path / "one", **arguments, **{"run.stop_after_tokens": END}), *FOUR])
    expected = steps(tmp_path / "one" / "smoke")
    assert len({line["batch_blocks"] for line in expected}) == 2, "the ramp is among the steps"
    run([*overrides(tmp_path / "four", **arguments, **{"run.stop_after_tokens": END // 3}), *FOUR], torchrun(4))
    same_steps(tmp_path / "four", expected[: len(steps(tmp_path / "four" / "smoke"))])
    for ranks, until in ((2, END // 3), (1, 2 * END // 3), (2, END)):
        command = [*overrides(tmp_path / "change", **arguments, **{"run.stop_after_tokens": until}), *FOUR]
        run_here(command) if ranks == 1 else run(command, torchrun(ranks))
    same_steps(tmp_path / "change", expected)
    changes = [line["detail"] for line in lineage(tmp_path / "change") if line["event"] == "ranks"]
    assert changes == ["2 -> 1", "1 -> 2"]


def test_ranks_that_cannot_divide_are_refused_with_those_that_would(tmp_path):
    error = refusal(overrides(tmp_path, **{"hardware.microbatch_blocks": 3}))
    assert "is not a multiple of ranks x hardware.microbatch_blocks = 1 x 3 = 3" in error
    assert "hardware.microbatch_blocks that divide all phases: 1, 2" in error


@pytest.fixture
def finished(tmp_path, tmp_path_factory):
    """A copy of the finished smoke run."""
    return copy_of(smoke_run(tmp_path_factory).folder, tmp_path / "smoke").parent


def test_workers_microbatch_and_backend_change_freely_in_the_middle(tmp_path, tmp_path_factory):
    run_here(overrides(tmp_path, **{"run.stop_after_tokens": 6_000}))
    more = {"data.num_workers": 2, "hardware.microbatch_blocks": 2, "hardware.attention_backend": "reference"}
    run_here(overrides(tmp_path, **{"run.stop_after_tokens": 9_000}, **more))
    expected = steps(smoke_run(tmp_path_factory).folder)
    done = steps(tmp_path / "smoke")
    same_steps(tmp_path, expected[: len(done)])
    changes = next(line["changes"] for line in lineage(tmp_path) if line["event"] == "settings")
    assert "data.num_workers: 0 -> 2" in changes


def test_a_changed_seed_is_refused_and_accepted_on_purpose_and_recorded(tmp_path):
    run_here(overrides(tmp_path, **{"run.stop_after_tokens": 10_000}))
    changed = {"run.stop_after_tokens": 20_000, "phases.short.shuffle_seed": 99}
    error = refusal(overrides(tmp_path, **changed))
    assert "phases.short.shuffle_seed: 17 -> 99" in error
    assert "run.accept_changes=[phases.short.shuffle_seed]" in error
    accept = {**changed, "run.accept_changes": "[phases.short.shuffle_seed]"}
    output = run_here(overrides(tmp_path, **accept))
    assert "note: accepted by run.accept_changes: phases.short.shuffle_seed: 17 -> 99" in output
    resume = next(line for line in lineage(tmp_path) if line["event"] == "resume")
    assert resume["accepted"] == ["phases.short.shuffle_seed: 17 -> 99"]
    run_here(overrides(tmp_path, **{**changed, "run.stop_after_tokens": 25_000}))  # from now on it is this run's


def test_a_finished_run_is_extended_by_a_longer_phase_and_a_later_one(finished):
    before = metrics(finished / "smoke")
    more = ["+phase@phases.more=stable", "phase_order=[short,context,anneal,more]", "phases.more.tokens=8K"]
    more += ["phases.more.max_seq_len=256", "phases.more.streams={general: 1.0}", "phases.more.shuffle_seed=3"]
    more += ["phases.more.rope={global_theta: 160_000, local_theta: 10_000}", "phases.more.lr.peak=1e-3"]
    more += ["phases.more.batch={blocks: 4, quantum_blocks: 2}", "phases.more.save_every_tokens=4K"]
    more += ["phases.more.eval_every_tokens=4K"]
    output = run_here([*overrides(finished), *more])
    assert "resumed phase more at 98.3K tokens (batch 100) from " in output
    after = metrics(finished / "smoke")
    assert after[: len(before)] == before
    assert {line["phase"] for line in after[len(before) :]} == {"more"}
    longer = run_here([*overrides(finished), *more, "phases.more.tokens=12K"])
    assert "resumed phase more at" in longer
    assert metrics(finished / "smoke")[: len(after)] == after
    assert metrics(finished / "smoke")[-1]["tokens"] >= 98_000 + 12_000


def test_a_rollback_branches_off_with_new_rates_and_its_data_going_on(finished, tmp_path):
    """The published large model went back once: weights, moments and data from a checkpoint, lower rate and decay."""
    source = next((finished / "smoke" / "checkpoints" / "context").glob("*-74_752tok.pt"))
    keep = {"start": "source", "start.source": source, "start.keep": "[weights,optimizer,clock]"}
    new = {"run.name": "rollback", "phases.context.lr.peak": "1e-4", "phases.context.weight_decay": "1e-6"}
    new |= {"phases.context.tokens": "25K", "phases.anneal.lr.peak": "1e-4"}
    output = run_here(overrides(tmp_path, **keep, **new))
    assert f"resumed phase context at 74.75K tokens (batch 77) from {source}; first batch after" in output
    assert "note: not as in the run it branches off: phases.context.lr.peak: 0.004 -> 0.0001" in output
    parent = {line["step"]: line for line in steps(finished / "smoke")}
    done = steps(tmp_path / "rollback")
    assert done[0]["step"] == 78
    assert [line["blocks"] for line in done] == [parent[line["step"]]["blocks"] for line in done]
    assert done[0]["loss"] == parent[78]["loss"], "the same weights on the same blocks"
    assert done[1]["loss"] != parent[79]["loss"], "after a step at another rate"
    assert done[0]["lr"] == 1e-4
    first = json.loads((tmp_path / "rollback" / "lineage.jsonl").read_text().splitlines()[0])
    assert (first["event"], first["clock_tokens"], first["detail"]) == ("branch", 74_752, str(source))
    assert "phases.context.weight_decay: 1e-05 -> 1e-06" in first["changed"]
    assert load_checkpoint(next((tmp_path / "rollback" / "checkpoints" / "anneal").glob("*-98_304tok.pt"))).step == 100
    again = run_here(overrides(tmp_path, **keep, **new))
    assert "all phases are done" in again


def test_a_branch_before_its_parents_next_phase_says_what_will_be_other(finished, tmp_path):
    source = next((finished / "smoke" / "checkpoints" / "short").glob("*-50_176tok.pt"))
    keep = {"start": "source", "start.source": source, "start.keep": "[weights,optimizer,clock]"}
    new = {"run.name": "other", "run.stop_after_tokens": "53_000", "phases.context.lr.peak": "5e-4"}
    output = run_here(overrides(tmp_path, **keep, **new))
    assert "note: not as in the run it branches off: phases.context.lr.peak: 0.004 -> 0.0005" in output
    first = json.loads((tmp_path / "other" / "lineage.jsonl").read_text().splitlines()[0])
    assert "phases.context.lr.peak: 0.004 -> 0.0005" in first["changed"]


@pytest.mark.parametrize("lost", ["folder", "sidecars"])
def test_a_run_that_lost_its_checkpoints_does_not_begin_again_in_silence(finished, lost):
    folder = finished / "smoke"
    before = (folder / "metrics.jsonl").read_bytes()
    if lost == "folder":
        shutil.rmtree(folder / "checkpoints")
    else:
        for path in folder.glob("checkpoints/*/*.json"):
            path.unlink()
    error = refusal(overrides(finished))
    assert ("had a checkpoint at 98_304 tokens, and there is none now" in error) == (lost == "folder")
    assert "another run.name" in error
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert lost == "folder" or len(list(folder.glob("checkpoints/*/*tok.pt"))) > 3, "nothing was renamed"


def test_status_and_sidecars_keep_place_and_loss_over_a_resume(tmp_path):
    run_here(overrides(tmp_path, **{"run.stop_after_tokens": 26_000}))
    run_here(overrides(tmp_path, **{"run.stop_after_tokens": 31_000}))
    status = json.loads((tmp_path / "smoke" / "status.json").read_text())
    newest = Path(status["checkpoint"])
    sidecar = json.loads(newest.with_suffix(".json").read_text())
    assert (status["state"], status["clock_tokens"]) == ("finished", sidecar["clock_tokens"])
    assert status["step"] == sidecar["step"]
    losses = [json.loads(path.read_text())["eval_loss"] for path in newest.parent.glob("*.json")]
    assert None not in losses, "a checkpoint after a resume still knows the last validation loss"
    again = run_here(overrides(tmp_path, **{"run.stop_after_tokens": 31_000}))
    assert "phase 'short'" not in again, "there is nothing to do"
    assert json.loads((tmp_path / "smoke" / "status.json").read_text())["clock_tokens"] == status["clock_tokens"]


def test_blocks_left_out_that_are_not_whole_steps_are_refused(tmp_path):
    (tmp_path / "smoke").mkdir()
    for ranges in ('[["short", 0, 1]]', '[["other", 0, 2]]'):
        (tmp_path / "smoke" / "skipped.json").write_text(ranges)
        assert "which are not whole steps of this run" in refusal(overrides(tmp_path))
