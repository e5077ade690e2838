"""The callbacks in a real Trainer: settings of each step from the clock, figures, checkpoints, lines of progress."""

import io
import json
import re
import time
from dataclasses import replace

import pytest
import torch
from composer.core import Callback
from rich.console import Console

from padless.checkpoint import load_checkpoint, newest_checkpoint
from padless.errors import TrainingError
from padless.schedule.step import settings_at
from padless.train.callbacks.metrics import read_metrics
from padless.train.callbacks.progress import ShowProgress
from padless.train.callbacks.record import crossed
from padless.train.callbacks.resumed import AnnounceResume
from padless.train.phase import build_model

KEEP_EVERY = "phases.short.keep_every_tokens=3_000"
WARMUP = "phases.short.lr.warmup_tokens=1_000"


class Observe(Callback):
    """Reads back, while a step is under way, what the optimizer and the batch really are."""

    def __init__(self):
        self.steps = []

    def after_train_batch(self, state, logger):
        groups = state.optimizers[0].param_groups
        masked = sum(batch.num_masked for batch in state.batch)
        self.steps.append(
            {
                "clock": int(state.timestamp.token),
                "lr": [group["lr"] for group in groups],
                "max_lr": [group["max_lr"] for group in groups],
                "weight_decay": [group["weight_decay"] for group in groups],
                "blocks": sum(batch.input_ids_T.shape[0] for batch in state.batch) // 256,
                "masked_share": masked / sum(batch.num_real_tokens for batch in state.batch),
                "draw": float(torch.rand(())),
            }
        )


@pytest.mark.composer
def test_optimizer_and_batch_follow_the_functions_of_the_clock(make_phase, tmp_path):
    phase = make_phase("phases.short.weight_decay=0.02", "phases.short.masking.rate=0.25")
    observe = Observe()
    phase.trainer([phase.guard(tmp_path), phase.log(tmp_path), observe], 14_000).fit()
    assert len(observe.steps) > 12
    assert {step["blocks"] for step in observe.steps} == {2, 4}
    for step, line in zip(observe.steps, read_metrics(tmp_path / "metrics.jsonl"), strict=True):
        settings = settings_at(phase.plan, step["clock"])
        assert step["lr"] == [settings.lr] * 2
        assert step["max_lr"] == [4e-3] * 2
        assert step["weight_decay"] == [0.02, 0.0]
        assert step["blocks"] == settings.batch_blocks
        assert step["masked_share"] == pytest.approx(0.25, abs=0.06)
        assert (line["lr"], line["weight_decay"], line["mask_rate"]) == (settings.lr, 0.02, 0.25)
        assert line["tokens"] == step["clock"] + step["blocks"] * 256
        assert line["real_tokens"] == step["blocks"] * 250
        assert (line["fill"], line["mfu"]) == (round(250 / 256, 5), None)
    assert {step["draw"] for step in observe.steps} != {observe.steps[0]["draw"]}


@pytest.mark.composer
def test_checkpoints_are_written_past_each_interval_and_at_the_end(make_phase, tmp_path):
    phase = make_phase("phases.short.save_every_tokens=3_000")
    said = []
    keep = phase.saver(tmp_path, 8_000, say=said.append)
    phase.trainer([keep], 8_000).fit()
    sidecars = [json.loads(path.read_text()) for path in tmp_path.glob("checkpoints/short/*.json")]
    assert sorted(each["clock_tokens"] for each in sidecars) == [3_072, 6_144, 8_192]
    assert len(said) == 3
    assert keep.last_path == newest_checkpoint(tmp_path, said.append)
    last = load_checkpoint(keep.last_path)
    assert (last.clock_tokens, last.meta["phase"]) == (8_192, "short")
    assert last.meta["train_seconds"] > 100
    assert all(torch.equal(tensor, last.model[name]) for name, tensor in phase.model.state_dict().items())
    assert int(last.optimizer["group_steps"]["0"]) == last.step


def saved_clocks(folder):
    return sorted(json.loads(path.read_text())["clock_tokens"] for path in folder.glob("checkpoints/short/*.json"))


@pytest.mark.composer
def test_retention_keeps_the_newest_the_kept_ones_and_the_phase_end(make_phase, tmp_path):
    phase = make_phase("phases.short.tokens=10_000", "phases.short.save_every_tokens=1_000", KEEP_EVERY, WARMUP)
    phase.trainer([phase.saver(tmp_path, 10_000, keep_newest=2)], 10_000).fit()
    assert saved_clocks(tmp_path) == [3_072, 6_144, 7_168, 8_192, 9_216, 10_240]
    sidecars = [json.loads(path.read_text()) for path in tmp_path.glob("checkpoints/short/*.json")]
    reasons = {each["clock_tokens"]: each["kept"] for each in sidecars}
    assert reasons == {
        3_072: "every 3K tokens",
        6_144: "every 3K tokens",
        7_168: None,
        8_192: None,
        9_216: "every 3K tokens",
        10_240: "phase end",
    }
    assert all(each["lr"] == settings_at(phase.plan, each["clock_tokens"] - 1_024).lr for each in sidecars)


@pytest.mark.composer
def test_a_wish_to_stop_ends_the_run_at_the_next_step_with_a_checkpoint(make_phase, tmp_path):
    phase = make_phase("phases.short.save_every_tokens=1M")
    phase.loader._wish_to_stop = lambda: "SIGTERM" if phase.loader.last_step.step == 3 else None
    phase.trainer([phase.saver(tmp_path, 8_000)], 8_000).fit()
    assert phase.loader.last_step.stop == "SIGTERM"
    newest = newest_checkpoint(tmp_path, print)
    assert newest is not None
    assert load_checkpoint(newest).step == 5, "four steps were done, the fifth was being assembled"


@pytest.mark.composer
def test_the_line_of_a_resume_is_said_once_with_the_time_to_the_first_batch(make_phase, tmp_path):
    phase, said = make_phase(), []
    phase.trainer([AnnounceResume("resumed from a.pt", time.perf_counter() - 5, said.append)], 2_000).fit()
    assert len(said) == 1
    found = re.fullmatch(r"resumed from a\.pt; first batch after (\d+\.\d\d) s", said[0])
    assert found
    assert float(found.group(1)) >= 5


@pytest.mark.composer
def test_weights_that_are_not_finite_are_not_saved(make_phase, tmp_path):
    phase = make_phase("phases.short.save_every_tokens=1_000")

    class Break(Callback):
        def batch_end(self, state, logger):
            if int(state.timestamp.token) > 3_000:
                with torch.no_grad():
                    phase.model.head.dense.weight[0, 0] = float("inf")

    with pytest.raises(
        TrainingError, match=r"head.dense.weight is not finite at clock 3_072 .* \(1 of \d+ tensors\)\n.*lr"
    ):
        phase.trainer([Break(), phase.saver(tmp_path, 8_000)], 8_000).fit()
    newest = newest_checkpoint(tmp_path, print)
    assert newest is not None
    assert load_checkpoint(newest).clock_tokens == 2_048


@pytest.mark.composer
def test_progress_in_a_log_file_is_lines_with_tokens_loss_rate_and_eta(make_phase, monkeypatch):
    monkeypatch.setattr("padless.train.callbacks.progress._LINE_EVERY_S", 0.0)
    phase, text = make_phase(), io.StringIO()
    console = Console(file=text, width=200)
    phase.trainer([ShowProgress(phase.record, phase.loader, 2_000, console)], 2_000).fit()
    lines = text.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("[short] step 1  512/2K tokens  loss 5.")
    assert "tokens/s  ETA 0:00:" in lines[0]
    assert "lr 6.14e-04" in lines[3]


@pytest.mark.composer
def test_progress_on_a_terminal_is_a_bar_that_is_taken_off(make_phase):
    phase, text = make_phase(), io.StringIO()
    show = ShowProgress(phase.record, phase.loader, 2_000, Console(file=text, force_terminal=True, width=160))
    phase.trainer([show], 2_000).fit()
    assert "ETA" in text.getvalue()
    assert show._bar is None


def test_an_interval_is_crossed_once():
    assert [crossed(1_000, before, before + 400) for before in range(0, 2_400, 400)] == [
        False, False, True, False, True, False
    ]  # fmt: skip


@pytest.mark.composer
def test_each_phase_builds_its_model_with_its_own_thetas():
    from types import SimpleNamespace

    from padless.config.compose import compose
    from padless.schedule.phases import plan_phases
    from padless.train.hardware import Compute

    config = compose(["recipe=smoke", "phases.anneal.rope.local_theta=20_000"])
    config = replace(config, model=replace(config.model, vocab_size=64, num_layers=1))
    context = SimpleNamespace(config=config, compute=Compute(torch.device("cpu"), None, "sdpa"))
    thetas = [build_model(context, plan).rope for plan in plan_phases(config)]
    read = [(rope.global_theta, rope.local_theta) for rope in thetas]
    assert read == [(10_000.0, 10_000.0), (160_000.0, 10_000.0), (160_000.0, 20_000.0)]
