"""What a finished run leaves behind: metrics by the clock, resolved config, lineage, picture, Hugging Face folders."""

import json
import math
from itertools import pairwise

import pytest
import torch
import yaml
from here import run_here, smoke_run
from runs import overrides
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

from padless.cli import main
from padless.config.compose import compose
from padless.config.load import load_config
from padless.schedule.phases import plan_phases
from padless.schedule.step import settings_at

pytestmark = [pytest.mark.slow, pytest.mark.composer]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    return smoke_run(tmp_path_factory)


@pytest.fixture(scope="module")
def config(smoke):
    return compose(overrides(smoke.folder.parent, **{"run.keep_newest_checkpoints": "null"}))


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_step_has_the_settings_of_its_clock(smoke, config):
    done = [line for line in lines_of(smoke.folder / "metrics.jsonl") if "loss" in line]
    plans = plan_phases(config)
    expected = [(plan, plan.clock_at_step(step)) for plan in plans for step in range(plan.steps_in_phase)]
    assert len(done) == len(expected)
    for line, (plan, clock) in zip(done, expected, strict=True):
        settings = settings_at(plan, clock)
        assert line["phase"] == plan.name
        assert line["lr"] == settings.lr
        assert line["weight_decay"] == settings.weight_decay
        assert line["batch_blocks"] == settings.batch_blocks
        assert line["mask_rate"] == settings.mask_rate
        assert line["tokens"] == clock + settings.batch_blocks * plan.block_tokens
        assert 0 < line["real_tokens"] <= settings.batch_blocks * plan.block_tokens
        assert math.isfinite(line["grad_norm"])
    assert [line["step"] for line in done] == list(range(1, len(done) + 1))
    assert len({line["lr"] for line in done}) > 20
    assert {line["batch_blocks"] for line in done} == {2, 4}
    assert {line["mask_rate"] for line in done} == {0.3, 0.15}


def test_evaluations_are_at_clock_0_at_the_intervals_and_at_the_end_of_each_phase(smoke, config):
    evals = [line for line in lines_of(smoke.folder / "metrics.jsonl") if "eval_loss" in line]
    ends = [plan.actual_end_tokens for plan in plan_phases(config)]
    assert [line["tokens"] for line in evals] == [0, 25_600, *ends]
    assert evals[0]["eval_loss"] == pytest.approx(math.log(2048), rel=0.02)
    assert evals[-1]["eval_loss"] < evals[0]["eval_loss"] - 1.0
    assert len({line["eval_masked_tokens"] for line in evals}) == 1


def test_the_resolved_config_reads_back_equal(smoke, config):
    assert load_config(yaml.safe_load((smoke.folder / "config.yaml").read_text())) == config


def test_lineage_tells_the_start_and_the_end_of_each_phase(smoke, config):
    lines = lines_of(smoke.folder / "lineage.jsonl")
    assert [line["event"] for line in lines] == ["start", "phase_end", "phase_end", "phase_end"]
    assert [line["detail"] for line in lines] == ["random weights", *config.phase_order]
    assert [line["clock_tokens"] for line in lines] == [0, *(plan.actual_end_tokens for plan in plan_phases(config))]
    assert lines[0]["world_size"] == 1
    assert lines[0]["versions"]["torch"] == torch.__version__.split("+")[0]


def test_checkpoints_lie_at_the_first_step_past_each_interval(smoke, config):
    found = {path.parent.name: set() for path in smoke.folder.glob("checkpoints/*/*.pt")}
    for path in smoke.folder.glob("checkpoints/*/*.json"):
        sidecar = json.loads(path.read_text())
        found[path.parent.name].add(sidecar["clock_tokens"])
        assert (path.with_suffix(".pt")).stat().st_size == sidecar["size_bytes"]
    for plan in plan_phases(config):
        clocks = [plan.clock_at_step(step) for step in range(plan.steps_in_phase + 1)]
        every = plan.phase.save_every_tokens
        starts = [clock - plan.start_tokens for clock in clocks]
        expected = {
            plan.start_tokens + after for before, after in pairwise(starts) if before // every != after // every
        }
        assert found[plan.name] == expected | {plan.actual_end_tokens}


def test_the_picture_is_a_png(smoke):
    assert (smoke.folder / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (smoke.folder / "loss.png").stat().st_size > 20_000


def test_it_says_what_it_runs_on_and_shows_five_filled_masks(smoke):
    assert "hardware: 1 x cpu" in smoke.output
    assert "attention: blocked" in smoke.output
    assert smoke.output.count("(was: ") == 5
    assert "of the unigram cross-entropy" in smoke.output
    assert str(smoke.folder) in smoke.output


def test_the_exported_folder_fills_masks_in_transformers(smoke):
    hf = smoke.folder / "hf"
    model = AutoModelForMaskedLM.from_pretrained(hf, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(hf, local_files_only=True)
    assert (model.config.global_rope_theta, model.config.local_rope_theta) == (160_000, 10_000)
    answers = pipeline("fill-mask", model=model, tokenizer=tokenizer, device="cpu")("It was a [MASK] night.")
    assert len(answers) == 5
    assert 0 < answers[0]["score"] <= 1


def test_a_run_without_validation_streams_ends_with_an_export_too(tmp_path):
    short = {
        "phases.short.tokens": "3K",
        "phases.short.lr.warmup_tokens": "1K",
        "phases.short.batch.warmup.tokens": "1K",
    }
    short |= {"phases.context.tokens": "1_024", "phases.anneal.tokens": "1_024", "eval.streams": "[]"}
    output = run_here(overrides(tmp_path, **short))
    assert "note: eval.streams is empty" in output
    assert "exported" in output
    assert "of the unigram cross-entropy" not in output
    assert all("loss" in line for line in lines_of(tmp_path / "smoke" / "metrics.jsonl"))


def test_export_of_an_earlier_checkpoint_has_the_theta_of_its_phase(smoke, tmp_path, capsys):
    assert main(["export", f"checkpoint={smoke.first_phase}", f"out={tmp_path / 'hf'}"]) == 0
    assert "exported" in capsys.readouterr().out
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "hf", local_files_only=True)
    assert (model.config.global_rope_theta, model.config.local_rope_theta) == (10_000, 10_000)
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "short" in card
