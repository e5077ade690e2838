"""A bad step is seen before the optimizer uses it: stopped, skipped or handed to a rewind, with a report."""

import json
import re

import pytest
import torch
from composer.core import Callback

from padless.checkpoint import load_checkpoint, newest_checkpoint
from padless.cli import exit_code_of
from padless.errors import TrainingError
from padless.train.bad_step import Rewind
from padless.train.callbacks.metrics import read_metrics

pytestmark = pytest.mark.composer
EMBEDDING = "model.embeddings.tok_embeddings.weight"


class Poison(Callback):
    """Before a step, puts a value into one weight; after its gradients are known, puts the old one back."""

    def __init__(self, model, at_clock, value, heals=False):
        self._weight = model.model.embeddings.tok_embeddings.weight
        self._at_clock, self._value, self._heals, self._old = at_clock, value, heals, None

    def batch_start(self, state, logger):
        if int(state.timestamp.token) == self._at_clock:
            with torch.no_grad():
                self._old = self._weight[7:9].clone()
                signs = torch.tensor([1.0, -1.0, -1.0, 1.0]).repeat(self._weight.shape[1] // 4)
                self._weight[7:9] = self._value * signs

    def after_train_batch(self, state, logger):
        if self._heals and self._old is not None:
            with torch.no_grad():
                self._weight[7:9] = self._old
            self._old = None


class Weights(Callback):
    """Keeps the weights after each step."""

    def __init__(self, model):
        self._model, self.after = model, {}

    def batch_end(self, state, logger):
        weights = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        self.after[int(state.timestamp.token)] = weights


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_it_stops_with_step_phase_clock_and_blocks_and_the_last_checkpoint_is_whole(
    make_phase, tmp_path, value, capsys
):
    phase = make_phase("phases.short.save_every_tokens=1_000")
    callbacks = [Poison(phase.model, 2_560, value), phase.guard(tmp_path), phase.saver(tmp_path, 8_000)]
    trainer = phase.trainer(callbacks, 8_000)
    assert exit_code_of(trainer.fit) == 2
    error = capsys.readouterr().err
    error = error[error.index("error: ") :]
    assert re.match(
        r"error: (loss|gradient norm) is (nan|inf) at step 5 of phase 'short' \(clock 2_560 tokens\), ", error
    )
    assert "blocks code:10, code:11; report: reports/step-5.json\n  remedy: the weights of the last checkpoint" in error
    assert "guard=rewind" in error
    assert "phases.short.lr.peak=... and run.accept_changes=[phases.short.lr.peak]" in error
    newest = newest_checkpoint(tmp_path, print)
    assert newest is not None
    saved = load_checkpoint(newest)
    assert saved.clock_tokens == 2_048
    assert all(bool(torch.isfinite(tensor).all()) for tensor in saved.model.values())


def test_a_learning_rate_that_overflows_is_stopped(make_phase, tmp_path):
    phase = make_phase(
        "phases.short.lr.peak=1e38", "phases.short.lr.warmup_tokens=0", "phases.short.save_every_tokens=500"
    )
    with pytest.raises(TrainingError, match=r"not finite|is (nan|inf) at step \d of phase 'short'"):
        phase.trainer([phase.guard(tmp_path), phase.saver(tmp_path, 8_000)], 8_000).fit()


def test_the_report_names_what_was_seen(make_phase, tmp_path):
    phase, said = make_phase(), []
    poison = Poison(phase.model, 2_560, float("nan"))
    with pytest.raises(TrainingError):
        phase.trainer([poison, phase.guard(tmp_path, said.append)], 8_000).fit()
    report = json.loads((tmp_path / "reports" / "step-5.json").read_text())
    assert (report["step"], report["phase"], report["clock_tokens"]) == (5, "short", 2_560)
    assert report["problem"] == "loss is nan"
    assert report["lr"] == pytest.approx(4e-3 * 2_560 / 10_000)
    assert report["blocks"] == [["code", 10], ["code", 11]]
    assert [each["block"] for each in report["documents"]] == [10, 11]
    first_ids = next(iter(phase.loader.last_step.own_blocks))[0].tokens_T[:3].tolist()
    assert report["documents"][0]["text"].startswith(" ".join(map(str, first_ids)))  # there is no tokenizer here
    assert report["first_layer_not_finite"] == "embeddings"
    assert report["layers"]["embeddings"]["weight_max"] == "nan"
    assert list(report["layers"]) == ["embeddings", "layers.0", "layers.1", "final_norm", "head"]
    assert all(layer["weight_max"] > 0 for name, layer in report["layers"].items() if name != "embeddings")
    assert said[0] == "bad step 5 of phase 'short': loss is nan; guard: stop"
    assert any(line.startswith("  code:10 begins: ") for line in said)


def test_many_blocks_are_counted_after_the_first_sixteen(make_phase, tmp_path):
    phase = make_phase()
    phase.loader.last_step.block_ids = [("code", number) for number in range(20)]
    text = phase.guard(tmp_path)._reporter.name_blocks(16)
    assert text.startswith("code:0, code:1, ")
    assert text.endswith("code:15 and 4 more")


def test_norm_and_loss_are_those_of_the_whole_step(make_phase, tmp_path):
    phase = make_phase()
    seen = []

    class Compare(Callback):
        def after_train_batch(self, state, logger):
            squares = [parameter.grad.double().square().sum() for parameter in state.model.parameters()]
            seen.append([phase.record.grad_norm, float(torch.stack(squares).sum().sqrt())])

        def batch_end(self, state, logger):
            seen[-1] += [phase.record.recent_losses[-1], float(sum(sums) / sum(tokens))]
            sums.clear()
            tokens.clear()

    sums, tokens = [], []
    loss = phase.model.loss

    def note(batch):
        found = loss(batch)
        sums.append(found.detach().double() * batch.num_masked)
        tokens.append(batch.num_masked)
        return found

    phase.model.loss = note
    phase.trainer([phase.guard(tmp_path), Compare()], 2_000).fit()
    assert len(seen) == 4
    for norm, expected_norm, loss, expected_loss in seen:
        assert norm == pytest.approx(expected_norm, rel=1e-5)
        assert loss == pytest.approx(expected_loss, rel=1e-6)


def test_a_skipped_step_leaves_the_weights_as_they_were_and_is_marked(make_phase, tmp_path):
    phase = make_phase("guard=skip")
    poison, weights = Poison(phase.model, 2_560, float("nan"), heals=True), Weights(phase.model)
    phase.trainer([phase.guard(tmp_path), poison, phase.log(tmp_path), weights], 6_000).fit()
    for name, before in weights.after[2_560].items():
        assert torch.equal(before, weights.after[3_072][name]), name
    assert not torch.equal(weights.after[3_072][EMBEDDING], weights.after[3_584][EMBEDDING])
    marked = [
        (line["step"], line["bad_step"], line["loss"])
        for line in read_metrics(tmp_path / "metrics.jsonl")
        if "bad_step" in line
    ]
    assert marked == [(6, "loss is nan", None)]
    assert (tmp_path / "reports" / "step-5.json").is_file()


def test_too_many_skips_in_a_row_stop_the_run(make_phase, tmp_path):
    phase = make_phase("guard=skip", "guard.max_in_a_row=2")
    with pytest.raises(TrainingError, match=r"loss is nan at step 7 .*, 3 bad steps in a row, blocks"):
        phase.trainer([Poison(phase.model, 2_560, float("nan")), phase.guard(tmp_path)], 8_000).fit()


SPIKE = ["guard.window_steps=8", "guard.spike_min_nats=0.2", "guard.spike_deviations=3.0"]


@pytest.mark.parametrize("policy", ["report", "stop", "skip", "rewind"])
def test_a_spike_is_seen_under_each_policy(make_phase, tmp_path, policy):
    phase = make_phase(*SPIKE, f"guard.on_spike={policy}")
    poison, weights = Poison(phase.model, 8_192, 30.0, heals=True), Weights(phase.model)
    trainer = phase.trainer([phase.guard(tmp_path), poison, weights], 11_000)
    if policy == "stop":
        with pytest.raises(TrainingError, match=r"loss \d+\.\d+ is a spike: over \d\.\d+, 8 steps before it had"):
            trainer.fit()
    elif policy == "rewind":
        with pytest.raises(Rewind) as caught:
            trainer.fit()
        assert (caught.value.clock_tokens, caught.value.step) == (8_192, 12)
        assert "spike" in caught.value.problem
    else:
        trainer.fit()
        before, after = (weights.after[clock][EMBEDDING] for clock in (8_192, 9_216))
        assert torch.equal(before, after) == (policy == "skip")
    report = json.loads((tmp_path / "reports" / "step-12.json").read_text())
    assert len(report["recent_losses"]) == 8
    assert report["first_layer_not_finite"] is None


def test_a_lasting_rise_is_reported_some_times_and_then_the_new_level(make_phase, tmp_path):
    phase = make_phase(*SPIKE, "guard.max_in_a_row=3")
    said = []
    poison = Poison(phase.model, 8_192, 30.0)  # does not heal
    phase.trainer([phase.guard(tmp_path, said.append), poison], 14_000).fit()
    names = sorted(path.name for path in (tmp_path / "reports").iterdir())
    assert names == ["step-12.json", "step-13.json", "step-14.json"]
    assert "  3 in a row: from step 15 on this is the new level" in said


def test_a_second_report_of_a_step_does_not_replace_the_first(make_phase, tmp_path):
    for name in ("step-5.json", "step-5-2.json"):
        phase = make_phase()
        with pytest.raises(TrainingError, match=f"report: reports/{name}"):
            phase.trainer([Poison(phase.model, 2_560, float("nan")), phase.guard(tmp_path)], 8_000).fit()
        assert (tmp_path / "reports" / name).is_file()


def test_the_window_of_losses_is_in_the_checkpoint(make_phase, tmp_path):
    phase = make_phase("phases.short.save_every_tokens=3_000", "guard.window_steps=8")
    phase.trainer([phase.guard(tmp_path), phase.saver(tmp_path, 8_000)], 8_000).fit()
    newest = newest_checkpoint(tmp_path, print)
    assert newest is not None
    assert load_checkpoint(newest).meta["recent_losses"] == phase.record.recent_losses
    assert len(phase.record.recent_losses) == 8
