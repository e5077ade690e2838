"""The bench of growth: its runs and their settings, its arithmetic, and all of it once, small."""

import json

import pytest

from padless.bench.growth import (
    DEFAULTS,
    RANDOM,
    VARIANTS,
    arguments_of,
    bench,
    is_done,
    jobs_of,
    parse,
    shape_of,
    source_job,
)
from padless.bench.growth_figures import CONTINUED, SOURCE, Curve, as_result, loss_at, read_curve, tokens_to_reach
from padless.bench.growth_picture import draw_curves
from padless.config.check import check
from padless.config.compose import compose
from padless.errors import ConfigError


def curve(variant, *evaluations, seed=0, target="8x128", cpu_seconds=10.0):
    losses = tuple((tokens, loss + 0.5) for tokens, loss in evaluations[1:])
    source_loss = 5.5 if variant not in (RANDOM, SOURCE) else None
    return Curve(variant, target, seed, losses, tuple(evaluations), {}, cpu_seconds, {}, source_loss)


def test_every_run_composes_and_passes_its_checks(tmp_path):
    plan = parse([f"folder={tmp_path}"])
    jobs = jobs_of(plan)
    assert len({(job.name, job.target) for job in jobs}) == len(jobs) == 3 * (9 + 5)
    for job in [source_job(plan), *jobs[:9], *jobs[-5:]]:
        source = tmp_path / "source.pt" if job.variant not in (RANDOM, SOURCE) else None
        config = compose(arguments_of(job, plan, source))
        check(config, 1)
        assert config.phases["short"].tokens == job.steps * 1024
        assert config.init.kind == ("random" if job.variant in (RANDOM, SOURCE, CONTINUED) else "tiled")
        assert config.start.source == (str(source) if job.variant == CONTINUED else None)
        assert (config.model.hidden_size // config.model.num_heads, config.model.vocab_size) == (32, 2048)


def test_runs_of_a_seed_differ_in_their_start_alone(tmp_path):
    plan = parse([f"folder={tmp_path}"])
    runs = [job for job in jobs_of(plan) if job.seed == 1 and job.shape.name == "8x128"]
    assert len(runs) == 8
    settings = [set(arguments_of(job, plan, tmp_path / "source.pt")) for job in runs]
    for job, other in zip(runs, settings, strict=True):
        different = {text.split("=")[0] for text in other ^ settings[0]}
        own = {text.split("=")[0] for text in job.init} | {"init.source"}
        length = {f"phases.short.{key}" for key in ("tokens", "save_every_tokens")}
        assert different <= {"run.name", *length, *own}


def test_edge_is_tried_where_it_is_not_only_another_order(tmp_path):
    jobs = jobs_of(parse([f"folder={tmp_path}", "targets=8x128,6x96,4x192", "seeds=0"]))
    found = {}
    for job in jobs:
        found.setdefault(job.target.name, []).append(job.variant)
    assert found["8x128"] == ["random", *(name for name in VARIANTS if name != "edge"), "continued"]
    assert found["6x96"] == ["random", "tiled", "published", "edge", "continued"]
    assert found["4x192"] == ["random", "tiled", "published", "continued"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("source=4by64", r"source=4by64 is not layers x hidden\n.*source=4x64"),
        ("targets=8x", "targets=8x is not layers x hidden"),
        ("targets=8x100", r"a width of 100 is not a multiple of a head's, 32\n.*use 8x128"),
        ("targets=2x128", r"2x128 is smaller than the source, 4x64\n.*targets=8x128"),
        ("variants=tiles", "variants=tiles is not one of tiled, published"),
        ("random_steps=200", "random_steps=200 is less than steps=300"),
        ("steps=0", "steps=0 is less than 1"),
        ("seeds=one", "seeds=one is not a whole number"),
    ],
)
def test_settings_that_cannot_work_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        parse([setting])


def test_a_shape_is_layers_times_width():
    assert shape_of("source", "4x64").overrides() == [
        "model.num_layers=4",
        "model.hidden_size=64",
        "model.num_heads=2",
        "model.intermediate_size=96",
    ]


def test_losses_and_clocks_lie_on_straight_lines_between_validations():
    run = curve("tiled", (0, 7.0), (100, 5.0), (200, 5.5), (300, 4.5))
    assert [loss_at(run, tokens) for tokens in (0, 50, 100, 250, 300)] == [7.0, 6.0, 5.0, 5.0, 4.5]
    assert [tokens_to_reach(run, loss) for loss in (7.5, 7.0, 6.0, 5.0, 4.75)] == [0.0, 0.0, 50.0, 100.0, 275.0]
    assert tokens_to_reach(run, 4.0) is None


def test_a_grown_run_is_compared_with_the_random_start_of_its_seed():
    curves = [
        curve(SOURCE, (0, 8.0), (400, 5.0), target="4x64", cpu_seconds=4.0),
        curve(RANDOM, (0, 8.0), (100, 7.0), (200, 6.0), (300, 5.0), seed=0, cpu_seconds=6.0),
        curve(RANDOM, (0, 8.0), (100, 7.5), (200, 7.0), (300, 6.5), seed=1, cpu_seconds=6.0),
        curve("tiled", (0, 6.0), (100, 5.5), seed=0),
        curve("tiled", (0, 7.0), (100, 6.0), seed=1),
    ]
    result = as_result(curves, 100, {})
    found = {(each.who, each.unit): each.values for each in result.figures}
    assert found["tiled", "nats below the random start at 100 tokens"] == (1.5, 1.5)
    assert found["tiled", "tokens saved at the loss it has at 100 tokens"] == (150.0, 200.0)
    assert found["tiled", "tokens a random start needs to the loss it begins with"] == (200.0, 200.0)
    assert found["random", "nats, validation at 0 tokens"] == (8.0, 8.0)
    assert found["the source, 4x64", "nats, validation at 0 tokens"] == (5.5, 5.5)
    never, worth = result.notes
    assert never.startswith("8x128 tiled: 1 of 2 random starts never got to its loss within 300 tokens")
    assert worth.startswith("8x128: training the source took as many CPU seconds as 200 tokens of this model (400")


def test_a_run_counts_as_done_only_when_it_has_ended_at_its_last_step(tmp_path):
    job = source_job(parse(["source_steps=2", f"folder={tmp_path}"]))
    assert not is_done(tmp_path, job)
    lines = [{"tokens": tokens, "eval_loss": 7.0} for tokens in (0, 1_024)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "status.json").write_text('{"state": "finished"}')
    assert not is_done(tmp_path, job)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"tokens": 2_048, "eval_loss": 6.0}) + "\n")
    assert is_done(tmp_path, job)
    (tmp_path / "status.json").write_text('{"state": "failed"}')
    assert not is_done(tmp_path, job)


def test_the_picture_has_a_panel_a_target(tmp_path):
    pixels = []
    for targets in (("8x128",), ("8x128", "6x96")):
        curves = [curve(SOURCE, (0, 8.0), (400, 5.0), target="4x64")]
        for target in targets:
            for variant in (RANDOM, "tiled", "noise"):
                curves += [curve(variant, (0, 7.0), (100, 6.0 + seed), seed=seed, target=target) for seed in (0, 1)]
        draw_curves(curves, tmp_path / "growth.png")
        header = (tmp_path / "growth.png").read_bytes()[:24]
        pixels.append(int.from_bytes(header[16:20], "big"))
    assert pixels[1] == pytest.approx(2 * pixels[0], rel=0.01)


@pytest.mark.slow
@pytest.mark.composer
def test_the_bench_trains_what_is_missing_and_publishes(tmp_path, capsys):
    small = ["source=3x32", "targets=4x64", "variants=noise", "source_steps=2", "steps=2", "random_steps=2", "seeds=0"]
    bench([*small, f"folder={tmp_path}"], as_json=True)
    captured = capsys.readouterr()
    plain = json.loads(captured.out.strip().splitlines()[-1])
    assert captured.err.count("ETA") == 3
    assert {path.name for path in tmp_path.glob("growth.*")} == {"growth.json", "growth.md", "growth.png"}
    units = {figure["unit"] for figure in plain["figures"]}
    assert "nats below the random start at 2,048 tokens" in units
    assert "distance of copies at the end, neurons (0 equal, 1 unrelated)" in units
    run = tmp_path / "runs" / "3x32-2-to-4x64-noise-2-seed0"
    assert not (run / "checkpoints").exists()
    assert read_curve(run, "noise", "4x64", 0).copies["neurons"] == (0, 4 * 96)
    bench([*small, f"folder={tmp_path}"], as_json=True)
    again = capsys.readouterr()
    assert "ETA" not in again.err, "runs that are done are kept"
    assert json.loads(again.out.strip().splitlines()[-1])["figures"] == plain["figures"]


def test_defaults_are_what_the_docs_say():
    assert parse([]).steps == int(DEFAULTS["steps"]) == 300
    assert parse([]).seeds == (0, 1, 2)
