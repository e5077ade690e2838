"""An injected NaN and spike under each policy, in a whole run; a rewind is a run that never saw the blocks."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from here import refusal, run_here
from runs import metrics, overrides

from padless.checkpoint import load_checkpoint
from padless.data.loader import StepLoader
from padless.train.composer_model import ComposerMaskedLM

pytestmark = [pytest.mark.slow, pytest.mark.composer]

END = "20_000"
GUARD = ("guard.window_steps=8", "guard.spike_deviations=6")
BAD_STEP = 18


@dataclass
class Data:
    """What the loader assembles, step by step; blocks of ``bad`` spoil the loss of the step they are in."""

    bad: frozenset = frozenset()
    kind: str = "nan"
    steps: list = field(default_factory=list)
    spoilt: bool = False


@pytest.fixture
def data(monkeypatch):
    data = Data()
    assemble, forward = StepLoader._assemble, ComposerMaskedLM.forward

    def watched_assemble(self, *arguments):
        batches = assemble(self, *arguments)
        data.steps.append(list(self.last_step.block_ids))
        data.spoilt = not data.bad.isdisjoint(self.last_step.block_ids)
        return batches

    def spoilt_forward(self, batch):
        loss = forward(self, batch)
        if not data.spoilt:
            return loss
        spoil = (lambda value: value * float("nan")) if data.kind == "nan" else (lambda value: value + 30.0)
        self.masked_lm.last_cross_entropy = spoil(self.masked_lm.last_cross_entropy)
        return spoil(loss)

    monkeypatch.setattr(StepLoader, "_assemble", watched_assemble)
    monkeypatch.setattr(ComposerMaskedLM, "forward", spoilt_forward)
    return data


def arguments(folder, *more):
    return [*overrides(folder, **{"run.stop_after_tokens": END}), *GUARD, *more]


@pytest.fixture
def clean(data, tmp_path):
    """Blocks of each step of a run without bad ones, and the blocks that a test makes bad."""
    run_here(arguments(tmp_path / "clean"))
    blocks = [list(ids) for ids in data.steps]
    data.steps.clear()
    assert len({block for ids in blocks for block in ids}) == sum(map(len, blocks)), "no block comes twice"
    return blocks


def last_weights(folder):
    newest = max(folder.glob("smoke/checkpoints/*/*.pt"), key=lambda path: load_checkpoint(path).clock_tokens)
    return newest.name, load_checkpoint(newest)


def steps_of(folder):
    return [line for line in metrics(folder / "smoke") if "lr" in line]


@pytest.mark.parametrize("kind", ["nan", "spike"])
def test_stop_names_the_step_and_the_same_command_with_rewind_goes_on(data, clean, tmp_path, kind):
    data.bad, data.kind = frozenset(clean[BAD_STEP][:1]), kind
    stop = f"guard.on_{'non_finite' if kind == 'nan' else 'spike'}=stop"
    error = refusal(arguments(tmp_path, stop))
    assert f"at step {BAD_STEP} of phase 'short'" in error
    stream, index = min(clean[BAD_STEP])
    assert f"{stream}:{index}" in error
    status = json.loads((tmp_path / "smoke" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 2)
    assert f"step {BAD_STEP}" in status["message"]
    output = run_here(arguments(tmp_path, "guard=rewind"))
    assert "rewind: back from" in output
    assert steps_of(tmp_path)[-1]["tokens"] >= 20_000


@pytest.mark.parametrize("kind", ["nan", "spike"])
def test_skip_leaves_the_step_out_and_goes_on(data, clean, tmp_path, kind):
    data.bad, data.kind = frozenset(clean[BAD_STEP][:1]), kind
    run_here(arguments(tmp_path, "guard=skip"))
    assert data.steps == clean, "the data goes on as it was"
    lines = [json.loads(text) for text in (tmp_path / "smoke" / "metrics.jsonl").read_text().splitlines()]
    marked = [line["step"] for line in lines if "bad_step" in line]
    assert marked == [BAD_STEP + 1]
    _, saved = last_weights(tmp_path)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in saved.model.values())


@pytest.mark.parametrize("kind", ["nan", "spike"])
def test_rewind_is_bit_for_bit_a_run_that_never_saw_those_blocks(data, clean, tmp_path, kind):
    data.bad, data.kind = frozenset(clean[BAD_STEP][:1]), kind
    output = run_here(arguments(tmp_path / "rewound", "guard=rewind"))
    assert f"bad step {BAD_STEP} of phase 'short'" in output
    folder = tmp_path / "rewound" / "smoke"
    lineage = [json.loads(text) for text in (folder / "lineage.jsonl").read_text().splitlines()]
    rewind = next(line for line in lineage if line["event"] == "rewind")
    assert rewind["from_step"] == BAD_STEP
    assert rewind["clock_tokens"] < rewind["from_clock_tokens"]
    assert len(rewind["left_out"]) == 1
    assert rewind["left_out"][0][2] == len(clean[BAD_STEP])
    assert json.loads((folder / rewind["report"]).read_text())["step"] == BAD_STEP

    data.steps.clear()
    never = tmp_path / "never" / "smoke"
    never.mkdir(parents=True)
    (never / "skipped.json").write_text((folder / "skipped.json").read_text())
    run_here(arguments(tmp_path / "never", "guard=rewind"))
    seen = {block for ids in data.steps for block in ids}
    assert seen.isdisjoint(clean[BAD_STEP])
    expected = clean[:BAD_STEP] + clean[BAD_STEP + 1 :]
    assert [sorted(ids) for ids in data.steps[: len(expected)]] == [sorted(ids) for ids in expected]
    assert steps_of(tmp_path / "rewound") == steps_of(tmp_path / "never")
    name, saved = last_weights(tmp_path / "rewound")
    expected_name, expected_saved = last_weights(tmp_path / "never")
    assert name == expected_name
    assert saved.meta["skipped"] == expected_saved.meta["skipped"]
    for key, tensor in expected_saved.model.items():
        assert torch.equal(tensor, saved.model[key]), key
    for key, moments in expected_saved.optimizer["moments"].items():
        assert torch.equal(moments["exp_avg_sq"], saved.optimizer["moments"][key]["exp_avg_sq"]), key


def test_a_cause_that_is_not_in_the_blocks_ends_after_some_rewinds(data, clean, tmp_path):
    data.bad = frozenset(block for ids in clean[BAD_STEP:] for block in ids)
    error = refusal(arguments(tmp_path, "guard=rewind", "guard.max_in_a_row=2"))
    assert "3 rewinds without a new checkpoint; the last: loss is nan" in error
    assert "phases.short.lr.peak" in error


def test_a_rewind_before_the_first_checkpoint_starts_over_without_the_blocks(data, clean, tmp_path):
    data.bad = frozenset(clean[2][:1])
    run_here(arguments(tmp_path, "guard=rewind"))
    assert [line["tokens"] for line in metrics(tmp_path / "smoke") if "eval_loss" in line].count(0) == 1
    done = steps_of(tmp_path)
    assert [line["step"] for line in done] == list(range(1, len(done) + 1))
    lineage = [json.loads(text) for text in (tmp_path / "smoke" / "lineage.jsonl").read_text().splitlines()]
    assert [(line["event"], line["clock_tokens"]) for line in lineage[:2]] == [("start", 0), ("rewind", 0)]


@pytest.mark.world
def test_two_ranks_rewind_together_when_one_of_them_has_the_bad_block(data, clean, tmp_path):
    bad = clean[BAD_STEP][0]
    worker = Path(__file__).with_name("rewind_worker.py")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(worker))
    command = [*torchrun, bad[0], str(bad[1]), *arguments(tmp_path / "two", "guard=rewind")]
    subprocess.run(command, check=True, capture_output=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"})
    data.bad = frozenset([bad])
    run_here(arguments(tmp_path / "one", "guard=rewind"))
    one, two = steps_of(tmp_path / "one"), steps_of(tmp_path / "two")
    assert [line["blocks"] for line in two] == [line["blocks"] for line in one]
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], rel=1e-5)
    skipped = [(tmp_path / name / "smoke" / "skipped.json").read_text() for name in ("one", "two")]
    assert skipped[0] == skipped[1]
    report = json.loads((tmp_path / "two" / "smoke" / "reports" / f"step-{BAD_STEP}.json").read_text())
    named = {(document["stream"], document["block"]) for document in report["documents"]}
    assert named == set(clean[BAD_STEP]), "documents of both ranks"
