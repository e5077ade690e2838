"""Run folders far into the data are made of a real run's state; the figures decide."""

import json

import pytest
import torch

from padless.bench.figures import clock_of, newest_whole, read_figures
from padless.bench.resume import (
    ResumeResult,
    Times,
    as_markdown,
    craft,
    require_constant,
    resume_arguments,
    resume_times,
    run_resume,
)
from padless.bench.start import Sighting
from padless.checkpoint import Checkpoint, checkpoint_path, load_checkpoint, save_checkpoint
from padless.errors import ConfigError, TrainingError


def result(early, late):
    return ResumeResult(1_000_000, (Times(1, early, (9.0, 10.0, 11.0)), Times(99, late, (9.5, 10.5, 11.5))))


def test_medians_decide_whether_the_position_matters():
    assert result((1.0, 1.1, 9.0), (1.2, 1.3, 1.3)).passed
    assert not result((1.0, 1.0, 1.0), (1.2, 1.2, 1.2)).passed
    plain = result((1.0, 1.0, 1.0), (1.5, 1.5, 1.5)).as_plain()
    assert (plain["ok"], plain["ratio"], plain["process_ratio"]) == (False, 1.5, 1.05)
    json.dumps(plain)


def test_a_resume_that_grows_with_the_position_is_refused(tmp_path):
    require_constant(result((1.0, 1.0, 1.0), (1.1, 1.1, 1.1)), tmp_path)
    with pytest.raises(TrainingError, match=r"at 99 % of the data takes 1.30 times that at 1 %, not under 1.2"):
        require_constant(result((1.0, 1.0, 1.0), (1.3, 1.3, 1.3)), tmp_path)


def test_the_table_shows_least_median_most_and_the_ratio():
    table = as_markdown(result((0.8, 0.9, 1.0), (0.9, 0.9, 1.1)))
    assert "| 1 % | 0.80 / 0.90 / 1.00 | 9.00 / 10.00 / 11.00 |" in table
    assert "| 99 % | 0.90 / 0.90 / 1.10 | 9.50 / 10.50 / 11.50 |" in table
    assert "| ratio of medians | 1.00 (must be < 1.2) | 1.05 |" in table


@pytest.fixture
def seed(tmp_path):
    """The folder of a run of one step."""
    folder = tmp_path / "seed"
    meta = {"phase": "short", "clock_tokens": 256, "step": 1, "config": {}, "data": {}}
    state = Checkpoint({"decoder.bias": torch.tensor([2.0])}, None, meta)
    save_checkpoint(checkpoint_path(folder, "short", 256), state, "0" * 16)
    lines = [{"tokens": 0, "step": 0, "eval_loss": 7.0}, {"tokens": 256, "step": 1, "loss": 7.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yaml").write_text("run: {}\n")
    return folder


@pytest.mark.parametrize(("per_cent", "steps"), [(1, 20), (99, 1980)])
def test_a_crafted_run_has_the_state_and_a_line_for_every_step(tmp_path, seed, per_cent, steps):
    made = tmp_path / "made"
    clock = craft(seed, made, resume_arguments(tmp_path, 32_000), per_cent)
    assert clock == steps * 256
    assert newest_whole(made) == (clock, checkpoint_path(made, "short", clock))
    saved = load_checkpoint(checkpoint_path(made, "short", clock))
    assert (saved.step, saved.clock_tokens, float(saved.model["decoder.bias"])) == (steps, clock, 2.0)
    lines = read_figures(made)
    assert [line["step"] for line in lines] == list(range(1, steps + 1))
    assert clock_of(made) == clock
    assert len(list(made.glob("checkpoints/*/*.pt"))) == 1
    assert (made / "config.yaml").is_file()


def test_a_seed_without_a_checkpoint_is_an_error(tmp_path, seed):
    checkpoint_path(seed, "short", 256).unlink()
    with pytest.raises(TrainingError, match="seed has no checkpoint"):
        craft(seed, tmp_path / "made", resume_arguments(tmp_path, 32_000), 1)


def test_a_run_that_starts_elsewhere_is_no_measurement(tmp_path):
    seen = Sighting(resumed_tokens=512, first_step_s=9.0, first_batch_s=0.9)
    assert resume_times(seen, 512, tmp_path / "log.txt") == (0.9, 9.0)
    for other in (Sighting(0, 9.0, None), Sighting(256, 9.0, 0.9), Sighting(512, None, 0.9)):
        with pytest.raises(TrainingError, match="the run did not resume at 512 tokens"):
            resume_times(other, 512, tmp_path / "log.txt")


def test_too_few_blocks_and_no_repeats_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="blocks=1000 is less than 1600, a step for each per cent"):
        run_resume(tmp_path, 1_000, 3, print)
    with pytest.raises(ConfigError, match="repeats=0 is less than 1"):
        run_resume(tmp_path, 1_000_000, 0, print)


@pytest.mark.slow
@pytest.mark.composer
def test_real_runs_resume_at_both_places(tmp_path):
    said = []
    found = run_resume(tmp_path, 20_000, 1, said.append)
    assert [each.per_cent for each in found.times] == [1, 99]
    assert all(0 < each.first_batch_s[0] < each.first_step_s[0] for each in found.times)
    assert sum("first batch after" in line for line in said) == 2
