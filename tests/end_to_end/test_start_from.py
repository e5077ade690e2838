"""Runs that begin with somebody else's weights: tiled from a smaller model, or continued at clock 0."""

import json

import pytest
import torch
from here import copy_of, refusal, run_here, smoke_run
from runs import metrics, overrides

from padless.checkpoint import load_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.composer]

STOP = {"run.stop_after_tokens": "3_000", "export.enabled": "false", "loggers.tensorboard": "false"}
LARGER = {"model.hidden_size": 96, "model.num_heads": 3, "model.intermediate_size": 144, "model.num_layers": 3}


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return smoke_run(tmp_path_factory)


def evals(folder):
    return [line for line in metrics(folder / "smoke") if "eval_loss" in line]


def first_phase_eval(smoke):
    return [line["eval_loss"] for line in metrics(smoke.folder) if "eval_loss" in line and line["phase"] == "short"][-1]


def tiled(folder, source, **more):
    return overrides(folder, **{**LARGER, **STOP, "init": "tiled", "init.source": source, **more})


def test_a_larger_model_is_tiled_from_a_checkpoint_and_resumes_without_it(smoke, tmp_path):
    source = copy_of(smoke.first_phase, tmp_path / "source.pt")
    output = run_here(tiled(tmp_path, source))
    assert "inputs repeated" in output
    assert "model.layers.{0-2}.mlp.Wi.weight" in output
    assert (
        "exact copies of an earlier unit: 3 of 9 heads, 144 of 432 GeGLU neurons, 32 of 96 residual features" in output
    )
    assert "validation loss before the first step: source " in output
    first = evals(tmp_path)[0]
    random_loss = next(line["eval_loss"] for line in metrics(smoke.folder) if "eval_loss" in line)
    assert first["tokens"] == 0
    assert first["eval_loss"] < random_loss - 0.9
    assert first["eval_loss"] < first_phase_eval(smoke) + 0.3
    source.unlink()
    output = run_here(tiled(tmp_path, source, **{"run.stop_after_tokens": "5_000"}))
    assert "resumed phase short at" in output
    assert "inputs repeated" not in output
    assert "; twin_distance_heads " in output, "what the first start wrote is enough to watch the copies"
    lineage = [json.loads(line) for line in (tmp_path / "smoke" / "lineage.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lineage] == ["start", "stopped", "settings", "resume", "stopped"]
    assert lineage[0]["detail"] == str(source)


def test_the_same_shape_tiled_from_a_hugging_face_folder_is_the_source(smoke, tmp_path):
    run_here(overrides(tmp_path, **STOP, **{"init": "tiled", "init.source": smoke.first_phase_hf}))
    assert evals(tmp_path)[0]["eval_loss"] == pytest.approx(first_phase_eval(smoke), abs=1e-4)


def test_moments_are_tiled_if_asked_for_and_the_run_then_needs_no_warmup(smoke, tmp_path):
    more = {"init.tile_moments": "true", "phases.short.lr.warmup_tokens": 0}
    output = run_here(tiled(tmp_path, smoke.first_phase, **more))
    assert "optimizer moments: tiled from the source's" in output
    assert "re-warmed" not in output
    saved = load_checkpoint(max((tmp_path / "smoke" / "checkpoints" / "short").glob("*.pt")))
    source = load_checkpoint(smoke.first_phase)
    assert int(saved.optimizer["group_steps"]["0"]) == int(source.optimizer["group_steps"]["0"]) + saved.step
    error = refusal(tiled(tmp_path / "other", smoke.first_phase_hf, **more))
    assert "init.tile_moments=true, but" in error


def test_tiling_from_another_theta_is_refused_unless_allowed(smoke, tmp_path):
    other_theta = smoke.folder / "hf"
    error = refusal(tiled(tmp_path, other_theta))
    assert "RoPE thetas 160000/10000 (global/local), phase 'short' uses 10000/10000" in error
    assert "init.allow_theta_change=true" in error
    output = run_here(tiled(tmp_path, other_theta, **{"init.allow_theta_change": "true"}))
    assert "inputs repeated" in output


@pytest.mark.parametrize("kind", ["checkpoint", "folder"])
def test_a_run_continues_from_weights_at_clock_0_and_says_that_it_warms_up_again(smoke, tmp_path, kind):
    source = smoke.first_phase if kind == "checkpoint" else smoke.first_phase_hf
    more = {"start": "source", "start.source": source, "phases.short.lr.warmup_tokens": 0}
    output = run_here(overrides(tmp_path, **STOP, **more))
    assert "learning rate re-warmed over 500 tokens" in output
    assert "tokens seen by it: 50.18K); this run's clock starts at 0" in output
    first = evals(tmp_path)[0]
    assert (first["tokens"], first["step"]) == (0, 0)
    assert first["eval_loss"] == pytest.approx(first_phase_eval(smoke), abs=1e-4)
    done = [line for line in metrics(tmp_path / "smoke") if "loss" in line]
    assert done[0]["lr"] == 0.0
    assert done[1]["lr"] == 4e-3


def test_moments_are_kept_if_asked_for(smoke, tmp_path):
    more = {"start": "source", "start.source": smoke.first_phase, "start.keep": "[weights,optimizer]"}
    more |= {"phases.short.lr.warmup_tokens": 0, "phases.short.save_every_tokens": 500}
    output = run_here(overrides(tmp_path, **{**STOP, "run.stop_after_tokens": 500}, **more))
    assert "re-warmed" not in output
    saved = load_checkpoint(next((tmp_path / "smoke" / "checkpoints" / "short").glob("*-512tok.pt")))
    source = load_checkpoint(smoke.first_phase)
    steps = {number: int(step) for number, step in source.optimizer["group_steps"].items()}
    assert {number: int(step) for number, step in saved.optimizer["group_steps"].items()} == {
        number: step + 1 for number, step in steps.items()
    }
    name = "model.layers.0.attn.Wqkv.weight"
    before, after = (each.optimizer["moments"][name]["exp_avg_sq"] for each in (source, saved))
    assert torch.nn.functional.cosine_similarity(before.flatten(), after.flatten(), dim=0) > 0.9
