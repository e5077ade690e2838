"""What carries over from one phase, run or model to the next, and what is refused."""

from dataclasses import replace

import pytest
import torch

from padless.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from padless.config.compose import compose
from padless.config.load import to_plain
from padless.config.schema import RopeConfig
from padless.errors import CheckpointError, ModelError
from padless.export.importer import LoadedSource
from padless.model.masked_lm import MaskedLM
from padless.schedule.phases import plan_phases
from padless.schedule.skipped import SkippedRange
from padless.train.handover import (
    check_theta,
    check_tokenizer,
    load_source,
    position_blocks,
    skip_step,
    state_from_run,
    state_from_source,
    with_rewarmup,
)
from small_shape import small_shape

BLOCK = 256


@pytest.fixture(scope="module")
def config():
    return compose(["recipe=smoke"])


def checkpoint_file(folder, config, moments=None):
    model = MaskedLM(config.model, config.phases["short"].rope)
    meta = {"config": to_plain(config), "phase": "short", "clock_tokens": 3_072, "step": 6, "train_seconds": 1.5}
    meta |= {"data": {"code": "a"}, "tokenizer_folder": "tokenizer"}
    path = folder / "short-3_072tok.pt"
    save_checkpoint(path, Checkpoint(model.state_dict(), moments, {**meta, "tokenizer_sha256": "0" * 64}), "hash")
    return path, model


def test_position_starts_at_0_where_the_data_is_new_and_goes_on_where_it_is_the_same(config):
    short, context, anneal = plan_phases(config)
    plans = (short, context, anneal)
    assert position_blocks(plans, short, 10 * BLOCK, ()) == 10
    assert position_blocks(plans, context, context.start_tokens, ()) == 0
    assert position_blocks(plans, context, context.start_tokens + 4 * BLOCK, ()) == 4
    assert position_blocks(plans, anneal, anneal.start_tokens, ()) == 0


@pytest.mark.parametrize("more_tokens", [0, 8 * BLOCK])
def test_position_goes_on_over_several_phases_on_the_same_data(config, more_tokens):
    context = config.phases["context"]
    same = replace(context, lr=replace(context.lr, peak=1e-3), rope=RopeConfig(1e6, 1e4))
    phases = {**config.phases, "again": same, "more": replace(same, weight_decay=0.0)}
    order = ("short", "context", "again", "more", "anneal")
    plans = plan_phases(replace(config, phases=phases, phase_order=order))
    more = plans[3]
    expected = (more.start_tokens + more_tokens - plans[1].start_tokens) // BLOCK
    assert expected > 190
    assert position_blocks(plans, more, more.start_tokens + more_tokens, ()) == expected
    assert position_blocks(plans, plans[4], plans[4].start_tokens, ()) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"streams": {"general": 1.0}},
        {"streams": {"general": 0.6, "code": 0.2, "science": 0.2}},
        {"max_seq_len": 64},
        {"shuffle_seed": 99},
        {"quantum": 4},
    ],
    ids=["streams", "shares", "length", "order", "quantum"],
)
def test_position_is_0_after_any_change_of_data_or_order(config, change):
    context = config.phases["context"]
    batch = replace(context.batch, quantum_blocks=change.pop("quantum", 2))
    phases = {**config.phases, "again": replace(context, batch=batch, **change)}
    plans = plan_phases(replace(config, phases=phases, phase_order=("short", "context", "again", "anneal")))
    assert position_blocks(plans, plans[2], plans[2].start_tokens, ()) == 0


def test_blocks_left_out_move_the_position_and_only_in_their_own_data(config):
    short, context, anneal = plans = plan_phases(config)
    skipped = (SkippedRange("context", 8, 4), SkippedRange("short", 2, 2))
    assert [position_blocks(plans, short, blocks * BLOCK, skipped) for blocks in (0, 1, 2, 10)] == [0, 1, 4, 12]
    assert position_blocks(plans, context, context.start_tokens + 7 * BLOCK, skipped) == 7
    assert position_blocks(plans, context, context.start_tokens + 8 * BLOCK, skipped) == 12
    assert position_blocks(plans, anneal, anneal.start_tokens + 20 * BLOCK, skipped) == 20


def test_a_bad_step_is_left_out_at_its_place_in_the_data_that_is_left(config):
    _, context, _ = plans = plan_phases(config)
    clock = context.start_tokens + 8 * BLOCK
    once = skip_step(plans, clock, ())
    assert once == (SkippedRange("context", 8, 4),)
    assert skip_step(plans, clock, once) == (SkippedRange("context", 8, 8),)
    assert skip_step(plans, context.start_tokens, once) == (SkippedRange("context", 0, 4), *once)
    assert skip_step(plans, 0, ()) == (SkippedRange("short", 0, 2),)  # the ramp's first batch


def started(*more):
    return compose(["recipe=smoke", "start=source", "start.source=x", "phases.short.lr.warmup_tokens=0", *more])


def test_weights_without_moments_are_rewarmed_over_one_percent_of_the_first_phase():
    config, line = with_rewarmup(started())
    assert config.phases["short"].lr.warmup_tokens == 500
    assert config.phases["context"].lr.warmup_tokens == 0
    assert line == "learning rate re-warmed over 500 tokens, since start.source comes without optimizer moments"


def test_the_rewarmup_is_at_most_3_billion_tokens():
    assert with_rewarmup(started("phases.short.tokens=250B"))[0].phases["short"].lr.warmup_tokens == 2_500_000_000
    assert with_rewarmup(started("phases.short.tokens=1.7T"))[0].phases["short"].lr.warmup_tokens == 3_000_000_000


@pytest.mark.parametrize(
    "overrides",
    [
        ["recipe=smoke", "phases.short.lr.warmup_tokens=0"],
        ["recipe=smoke", "start=source", "start.source=x"],
        ["recipe=smoke", "start=source", "start.source=x", "start.keep=[weights,optimizer]"],
    ],
    ids=["no source", "own warmup", "moments kept"],
)
def test_nothing_is_rewarmed_without_need(overrides):
    config = compose(overrides)
    assert with_rewarmup(config) == (config, None)


def loaded(config, global_theta):
    return LoadedSource({}, config.model, RopeConfig(global_theta, 10_000.0), None, None)


def test_tiling_from_another_theta_is_refused(config):
    first = plan_phases(config)[0]
    with pytest.raises(
        ModelError, match=r"thetas 160000/10000 \(global/local\), phase 'short' uses 10000/10000\n.*init"
    ):
        check_theta(loaded(config, 160_000.0), first, allow_theta_change=False)
    check_theta(loaded(config, 160_000.0), first, allow_theta_change=True)
    check_theta(loaded(config, 10_000.0), first, allow_theta_change=False)


def test_a_source_of_another_shape_is_refused_with_both_sizes(config, tmp_path):
    path, _ = checkpoint_file(tmp_path, config)
    other = replace(config.model, hidden_size=96, num_heads=3)
    expected = r"hidden_size: 64 \(source\), 96 \(config\); num_heads: 2 \(source\), 3 \(config\)\n.*init=tiled"
    with pytest.raises(ModelError, match=expected):
        state_from_source(str(path), ("weights",), other)


def test_moments_that_are_not_there_cannot_be_kept(config, tmp_path):
    path, _ = checkpoint_file(tmp_path, config)
    with pytest.raises(
        CheckpointError, match=r"start.keep=\[weights,optimizer\], but .* weights only\n.*start.keep=\[weig"
    ):
        state_from_source(str(path), ("weights", "optimizer"), config.model)


def test_a_source_with_another_tokenizer_is_refused(config, tmp_path):
    path, _ = checkpoint_file(tmp_path, config)
    source, _ = load_source(str(path))
    check_tokenizer(source, "a.pt", source.tokenizer_sha256)
    check_tokenizer(replace(source, tokenizer_sha256=None), "a.pt", "f" * 64)
    with pytest.raises(ModelError, match=r"a.pt was trained with another tokenizer .* than the shards \(f{12}\)"):
        check_tokenizer(source, "a.pt", "f" * 64)


def test_a_source_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.pt is neither a checkpoint file nor a Hugging Face folder"):
        load_source(str(tmp_path / "gone.pt"))


@pytest.mark.parametrize(("keep", "has_moments"), [(("weights",), False), (("weights", "optimizer"), True)])
def test_a_source_gives_weights_at_clock_0(config, tmp_path, keep, has_moments):
    moments = {"moments": {}, "group_steps": {"0": torch.tensor(3)}}
    path, model = checkpoint_file(tmp_path, config, moments)
    state, parent = state_from_source(str(path), keep, config.model)
    assert (state.clock_tokens, state.step, state.train_seconds, parent.tokens_seen) == (0, 0, 0.0, 3_072)
    assert (state.optimizer is not None) == has_moments
    assert state.model is not None
    assert all(torch.equal(tensor, state.model[name]) for name, tensor in model.state_dict().items())


def test_the_own_checkpoint_keeps_clock_and_step(config, tmp_path):
    path, _ = checkpoint_file(tmp_path, config)
    state = state_from_run(load_checkpoint(path), str(path))
    assert (state.clock_tokens, state.step, state.train_seconds, state.origin) == (3_072, 6, 1.5, str(path))


def test_theta_comes_from_the_phase_and_changes_what_the_same_weights_compute(config):
    from padless.data.batch import PackedBatch

    rope = {name: config.phases[name].rope for name in config.phase_order}
    assert (rope["short"].global_theta, rope["context"].global_theta) == (10_000.0, 160_000.0)
    model_config = small_shape(
        num_layers=2, hidden_size=64, intermediate_size=96, global_every_layers=1, local_window_tokens=128, init_std=0.5
    )
    ids = torch.arange(5, 45)
    batch = PackedBatch(ids, torch.tensor([0, 40], dtype=torch.int32), ids[:2], ids[:2], (40,), 40, 40, 2)
    models = {name: MaskedLM(model_config, rope[name]) for name in ("short", "context", "anneal")}
    for model in models.values():
        model.load_state_dict(models["short"].state_dict())
    with torch.no_grad():
        out = {name: model.logits(batch) for name, model in models.items()}
    assert torch.equal(out["context"], out["anneal"])
    assert (out["context"] - out["short"]).abs().max() > 1e-3
