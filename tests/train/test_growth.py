"""A run that is grown: its source judged in time, tiled weights and moments, losses compared, twins watched."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from padless.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from padless.config.compose import compose
from padless.config.load import to_plain
from padless.data.collate import Block
from padless.errors import CheckpointError, ModelError
from padless.export.importer import LoadedSource
from padless.model.growth import plan_growth
from padless.model.init import initialise
from padless.model.masked_lm import MaskedLM
from padless.model.tiling import tile_state_dict
from padless.optim.build import build_optimizer, optimizer_state
from padless.schedule.phases import plan_phases
from padless.train.callbacks.metrics import MetricsFile, read_metrics
from padless.train.growth import GrowthSource, judge_growth, open_growth, read_growth, watch_twins, write_growth
from padless.train.handover import with_rewarmup

LARGER = ["model.num_layers=4", "model.hidden_size=128", "model.num_heads=4", "model.intermediate_size=192"]
SHA = "0" * 64


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A checkpoint of the smoke recipe's model, with and without moments."""
    config = compose(["recipe=smoke"])
    model = MaskedLM(config.model, config.phases["short"].rope, "reference")
    initialise(model, 3)
    meta = {"config": to_plain(config), "phase": "short", "clock_tokens": 3_072, "step": 6, "train_seconds": 1.5}
    meta |= {"data": {"code": "a"}, "tokenizer_folder": "tokenizer", "tokenizer_sha256": SHA}
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer = build_optimizer(model, config.optimizer, 1e-3, 0.0, is_gpu=False)
    optimizer.step()
    folder = tmp_path_factory.mktemp("sources")
    for name, moments in {"with": optimizer_state(model, optimizer), "without": None}.items():
        (folder / name).mkdir()
        path = folder / name / "short-3_072tok.pt"
        save_checkpoint(path, Checkpoint(model.state_dict(), moments, meta), "hash")
    return {name: folder / name / "short-3_072tok.pt" for name in ("with", "without")}


def opened(source, *more):
    config = compose(["recipe=smoke", "init=tiled", f"init.source={source}", *LARGER, *more])
    return open_growth(config, plan_phases(config)[0], SHA)


def test_a_source_is_opened_with_its_plan_and_moments_only_if_asked_for(sources):
    growth = opened(sources["with"]).growth
    assert (growth.scale, growth.mode, growth.layer_map) == ("fan_in", "wrap", (0, 1, 1, 0))
    assert opened(sources["with"]).moments is None
    found = opened(sources["with"], "init.tile_moments=true", "init.mode=edge", "init.layer_map=[0,1,1,0]")
    assert found.growth.mode == "edge"
    assert "head.norm.weight" in found.moments["moments"]


def test_moments_that_are_asked_for_and_missing_are_refused(sources):
    with pytest.raises(CheckpointError, match=r"tile_moments=true, but .*without.* has no optimizer moments\n.*=false"):
        opened(sources["without"], "init.tile_moments=true")


def test_a_source_that_is_too_big_is_refused_by_every_size(sources):
    small = ["model.num_layers=1", "model.hidden_size=32", "model.num_heads=1", "model.intermediate_size=48"]
    with pytest.raises(ModelError, match="too big to tile from: num_layers 2 > 1, hidden_size 64 > 32, num_heads"):
        opened(sources["with"], *small)


def test_an_own_map_may_cross_the_kinds_only_where_both_phases_have_one_theta(sources):
    crossing = "init.layer_map=[0,0,1,1]"
    assert opened(sources["with"], crossing).growth.layer_map == (0, 0, 1, 1)
    other = ["phases.short.rope.global_theta=160_000", "init.allow_theta_change=true"]
    with pytest.raises(ModelError, match="layer 1 is local, source layer 0 is global"):
        opened(sources["with"], crossing, *other)


def test_weights_tiled_without_moments_are_rewarmed_where_the_recipe_gives_no_warmup():
    tiled = ["recipe=smoke", "init=tiled", "init.source=x", "phases.short.lr.warmup_tokens=0"]
    config, line = with_rewarmup(compose(tiled))
    assert config.phases["short"].lr.warmup_tokens == 500
    assert line == "learning rate re-warmed over 500 tokens, since init.source comes without optimizer moments"
    for unchanged in ([*tiled, "init.tile_moments=true"], tiled[:3], tiled[:1] + tiled[3:]):
        given = compose(unchanged)
        assert with_rewarmup(given) == (given, None)


def test_how_a_run_was_grown_is_read_back_or_nothing(tmp_path):
    config = compose(["recipe=smoke", *LARGER])
    source = compose(["recipe=smoke"]).model
    growth = plan_growth(source, config.model, "published", "edge", (0, 0, 1, 1), may_cross_kinds=True)
    assert read_growth(tmp_path, config.model) is None
    write_growth(tmp_path, growth, {"losses": {"source": 1.0}})
    found = read_growth(tmp_path, config.model)
    assert (found.scale, found.mode, found.layer_map) == ("published", "edge", (0, 0, 1, 1))
    assert torch.equal(found.axes.hidden.source_positions_N, growth.axes.hidden.source_positions_N)
    assert json.loads((tmp_path / "growth.json").read_text())["losses"] == {"source": 1.0}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('{"source_model": {"num_layers": 1}}', "TypeError: "),
        ('{"source_model": ', "JSONDecodeError: "),
        ("[]", "TypeError: "),
        ("[" * 100_000, "RecursionError: "),
        ("{}", "KeyError: 'source_model'"),
    ],
)
def test_a_damaged_growth_json_is_said_and_training_goes_on_without_twins(tmp_path, content, what):
    config = compose(["recipe=smoke", "init=tiled", "init.source=x", *LARGER])
    (tmp_path / "growth.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"growth\.json does not say how the run was grown: {what}") as raised:
        read_growth(tmp_path, config.model)
    assert "restore it from a backup" in raised.value.remedy
    model, _ = grown(replace(config.model, vocab_size=256))
    said = []
    assert watch_twins(config, tmp_path, model, None, said.append) is None
    assert len(said) == 1
    assert "growth.json does not say how the run was grown" in said[0]


def test_a_growth_json_of_a_larger_source_is_said(tmp_path):
    config = compose(["recipe=smoke", *LARGER])
    source = compose(["recipe=smoke"]).model
    write_growth(tmp_path, plan_growth(source, config.model), {})
    with pytest.raises(CheckpointError, match="how the run was grown: the source is too big to tile from"):
        read_growth(tmp_path, replace(source, hidden_size=32, num_heads=1))


def test_a_growth_is_judged_before_the_data_where_the_run_has_no_checkpoint(sources, tmp_path):
    small = ["model.num_layers=1", "model.hidden_size=32", "model.num_heads=1", "model.intermediate_size=48"]
    config = compose(["recipe=smoke", "init=tiled", f"init.source={sources['with']}", *small])
    with pytest.raises(ModelError, match="too big to tile from"):
        judge_growth(config, tmp_path)
    with pytest.raises(CheckpointError, match="source nothing is neither a checkpoint file nor"):
        judge_growth(compose(["recipe=smoke", "init=tiled", "init.source=nothing"]), tmp_path)
    judge_growth(compose(["recipe=smoke"]), tmp_path)
    shutil.copytree(sources["with"].parent, tmp_path / "checkpoints" / "short")
    judge_growth(config, tmp_path)  # has grown: the source may be gone or another by now


def test_a_source_that_is_not_finite_is_refused(sources, tmp_path):
    saved = load_checkpoint(sources["without"])
    saved.model["model.layers.1.mlp.Wi.weight"][0, 0] = float("nan")
    path = tmp_path / "short-3_072tok.pt"
    save_checkpoint(path, saved, "hash")
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.Wi\.weight holds NaN"):
        opened(path)


def grown(config, **how):
    source = replace(compose(["recipe=smoke"]).model, vocab_size=256)
    model = MaskedLM(config, compose(["recipe=smoke"]).phases["short"].rope, "reference")
    smaller = MaskedLM(source, model.rope, "reference")
    initialise(smaller, 3)
    initialise(model, 4)
    loaded = LoadedSource(smaller.state_dict(), source, model.rope, None, None)
    return model, GrowthSource(loaded, None, plan_growth(source, config, **how))


def test_twins_are_watched_in_grown_runs_from_the_first_start_or_what_it_wrote(tmp_path):
    config = compose(["recipe=smoke", "init=tiled", "init.source=x", *LARGER])
    shape = replace(config.model, vocab_size=256)
    config = replace(config, model=shape)
    model, source = grown(shape)
    weights, _ = tile_state_dict(source.loaded.state_dict, model.state_dict(), source.growth)
    model.load_state_dict(weights)
    equal = {f"eval_twin_distance_{kind}": 0.0 for kind in ("heads", "neurons", "features")}
    assert watch_twins(config, tmp_path, model, source, print)() == equal
    assert watch_twins(config, tmp_path, model, None, print) is None
    write_growth(tmp_path, source.growth, {})
    assert watch_twins(config, tmp_path, model, None, print)() == equal
    with torch.no_grad():
        model.model.layers[0].mlp.Wi.weight.add_(torch.randn(model.model.layers[0].mlp.Wi.weight.shape))
    assert watch_twins(config, tmp_path, model, None, print)()["eval_twin_distance_neurons"] > 0.1
    assert watch_twins(replace(config, init=compose(["recipe=smoke"]).init), tmp_path, model, source, print) is None


def test_random_edges_have_no_twins_to_watch(tmp_path):
    config = compose(["recipe=smoke", "init=tiled", "init.source=x", "init.mode=centre", *LARGER])
    config = replace(config, model=replace(config.model, vocab_size=256))
    model, source = grown(config.model, mode="centre")
    assert watch_twins(config, tmp_path, model, source, print) is None


class FixedText:
    """Validation blocks of one stream, in memory."""

    name = "code"

    def __init__(self, blocks):
        self._blocks = blocks

    def __len__(self):
        return len(self._blocks)

    def __getitem__(self, index):
        return self._blocks[index]


@pytest.mark.composer
def test_the_callback_tiles_weights_and_moments_and_compares_losses_before_the_first_step(make_phase, tmp_path):
    import numpy as np
    from composer.core import Callback

    from padless.data.masking import MaskingRule
    from padless.train.callbacks.tiled_init import TiledInit
    from padless.train.callbacks.validate import Validate
    from padless.train.hardware import Compute
    from padless.train.validation import Validation, ValidationRules

    phase = make_phase()
    shape = replace(phase.model.config, hidden_size=16, num_heads=1, intermediate_size=24)
    smaller = MaskedLM(shape, phase.model.rope, "reference")
    initialise(smaller, 5)
    for parameter in smaller.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer = build_optimizer(smaller, phase.config.optimizer, 1e-3, 0.0, is_gpu=False)
    optimizer.step()
    growth = plan_growth(shape, phase.model.config)
    source = GrowthSource(
        LoadedSource(smaller.state_dict(), shape, phase.model.rope, None, None),
        optimizer_state(smaller, optimizer),
        growth,
    )
    compute = Compute(torch.device("cpu"), None, "sdpa")
    blocks = [
        Block("code", number, np.random.default_rng(number).integers(5, 256, 250).astype(np.uint16), np.array([250]))
        for number in range(3)
    ]
    rules = ValidationRules(256, 256, 3, MaskingRule.build(256, 4, [0, 1, 2, 3, 4], 0.8, 0.1), 0.15, 17, None)
    validation = Validation([FixedText(blocks)], rules, phase.world, compute)
    said, metrics, seen = [], MetricsFile(tmp_path / "metrics.jsonl", True), {}

    class LookAtStart(Callback):
        def batch_start(self, state, logger):
            parameter = dict(phase.model.named_parameters())["model.layers.1.mlp.Wi.weight"]
            seen.setdefault("moment", float(state.optimizers[0].state[parameter]["exp_avg"].mean()))

    init = replace(phase.config.init, kind="tiled", source="small.pt", symmetry_noise_std=0.01)
    watch = watch_twins(replace(phase.config, init=init), tmp_path, phase.model, source, said.append)
    callbacks = [
        Validate(phase.record, phase.model, validation, metrics, 1_000, said.append, watch),
        TiledInit(phase.model, source, init, 17, phase.record, validation, compute, tmp_path, said.append),
        LookAtStart(),
    ]
    phase.trainer(callbacks, 1_000).fit()
    text = "\n".join(said)
    assert "layers, target<-source: 0g<-0 1l<-1" in text
    assert "symmetry noise of 0.01" in text
    assert "exact copies of an earlier unit: 0 of 4 heads" in text
    assert "optimizer moments: tiled from the source's" in text
    assert seen["moment"] == pytest.approx(1e-3 / 2, rel=1e-3)  # each unit exists twice
    facts = json.loads((tmp_path / "growth.json").read_text())
    first, last = read_metrics(tmp_path / "metrics.jsonl")
    assert facts["losses"]["grown"] == first["eval_loss"]
    assert abs(facts["losses"]["source"] - first["eval_loss"]) < 0.1
    assert facts["losses"]["random"] > 5
    assert set(facts["losses"]) == {"source", "grown", "random"}
    assert f"before the first step: source {facts['losses']['source']:.4f}, grown {first['eval_loss']:.4f}" in text
    for kind in ("heads", "neurons", "features"):
        assert last[f"eval_twin_distance_{kind}"] > 0
    assert f"twin_distance_neurons {last['eval_twin_distance_neurons']:.2g}" in text
