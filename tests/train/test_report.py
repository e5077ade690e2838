"""The picture of a run, from its metrics file alone."""

import json

import matplotlib.image

from padless.config.compose import compose
from padless.schedule.phases import plan_phases
from padless.train.report import plot_run


def metrics_of(path, plans, last_tokens):
    lines = [{"tokens": 0, "step": 0, "phase": "short", "eval_loss": 7.6}]
    for plan in plans:
        for step in range(1, plan.steps_in_phase + 1):
            tokens = plan.clock_at_step(step)
            line = {"tokens": tokens, "step": plan.first_step + step, "phase": plan.name, "loss": 7.6 - tokens / 1e5}
            lines += [{**line, "lr": 4e-3, "batch_blocks": 4, "mask_rate": 0.3}] if tokens <= last_tokens else []
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def draw(tmp_path, last_tokens, unigram):
    plans = plan_phases(compose(["recipe=smoke"]))
    metrics_of(tmp_path / "metrics.jsonl", plans, last_tokens)
    plot_run(tmp_path / "metrics.jsonl", plans, 256, unigram, tmp_path / "loss.png")
    return matplotlib.image.imread(tmp_path / "loss.png")


def test_the_picture_shows_phases_and_the_unigram_line(tmp_path):
    whole = draw(tmp_path, 10**9, 6.2)
    assert whole.shape[0] > 600
    assert whole.shape[1] > 900
    without = draw(tmp_path, 10**9, None)
    assert whole.shape == without.shape
    assert (whole != without).any()


def test_a_run_that_stopped_early_and_one_with_a_single_step_have_a_picture_too(tmp_path):
    assert draw(tmp_path, 20_000, None).size
    assert draw(tmp_path, 512, 6.2).size


def test_without_a_step_there_is_no_picture(tmp_path):
    plans = plan_phases(compose(["recipe=smoke"]))
    (tmp_path / "metrics.jsonl").write_text('{"tokens": 0, "step": 0, "phase": "short", "eval_loss": 7.6}\n')
    plot_run(tmp_path / "metrics.jsonl", plans, 256, None, tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()
