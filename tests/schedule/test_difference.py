"""A resume may change what leaves everything before the clock as it was, and nothing else."""

import json
from functools import cache

import pytest

from padless.config.compose import compose
from padless.config.load import to_plain
from padless.errors import ConfigError
from padless.schedule.difference import _telling_steps, results_difference
from padless.schedule.phases import plan_phases

OLD = compose(["recipe=smoke"])
SHORT, CONTEXT, ANNEAL = plan_phases(OLD)
MID_SHORT = SHORT.clock_at_step(30)
MID_CONTEXT = CONTEXT.clock_at_step(5)
MID_ANNEAL = ANNEAL.clock_at_step(5)
END = ANNEAL.actual_end_tokens


@cache
def composed(*overrides):
    return compose(["recipe=smoke", *overrides])


def difference(clock, *overrides):
    old = json.loads(json.dumps(to_plain(OLD)))
    return results_difference(old, composed(*overrides), clock)


@pytest.mark.parametrize(
    ("clock", "override"),
    [
        (END, "run.name=other"),
        (END, "run.stop_after_tokens=5_000"),
        (END, "hardware.microbatch_blocks=2"),
        (END, "hardware=cpu"),
        (END, "data.streams.code.local=elsewhere"),
        (END, "data.num_workers=2"),
        (END, "phases.short.save_every_tokens=1_000"),
        (END, "phases.anneal.eval_every_tokens=1_000"),
        (END, "loggers.tensorboard=false"),
        (END, "eval.max_blocks=2"),
        (END, "export.enabled=false"),
        (MID_SHORT, "phases.context.lr.peak=1e-3"),
        (MID_SHORT, "phases.short.tokens=60K"),
        (MID_SHORT, "phases.anneal.batch.blocks=6"),
        (SHORT.actual_end_tokens, "phases.context.max_seq_len=128"),
        (SHORT.actual_end_tokens, "phases.short.tokens=70K"),
        (MID_CONTEXT, "phases.context.tokens=50K"),
        (MID_CONTEXT, "phases.context.masking={shape: step, end_rate: 0.1, step_at_tokens: 20K}"),
    ],
)
def test_what_changes_nothing_before_the_clock_may_change(clock, override):
    assert difference(clock, override) == []


@pytest.mark.parametrize(
    ("clock", "override", "named"),
    [
        (0, "run.seed=3", "run.seed: 17 -> 3"),
        (0, "model.num_layers=3", "model.num_layers: 2 -> 3"),
        (0, "data.block_tokens=512", "data.block_tokens: 256 -> 512"),
        (0, "data.shuffle=false", "data.shuffle: True -> False"),
        (0, "optimizer.beta2=0.99", "optimizer.beta2: 0.98 -> 0.99"),
        (0, "optimizer.kind=adamw", "optimizer.kind: stable_adamw -> adamw"),
        (0, "loss.z_loss=1e-4", "loss.z_loss: 0.0 -> 0.0001"),
        (MID_SHORT, "phases.short.masking.mask_share=0.9", "phases.short.masking.mask_share: 0.8 -> 0.9"),
        (MID_SHORT, "phases.short.lr.peak=1e-3", "phases.short.lr.peak: 0.004 -> 0.001"),
        (MID_SHORT, "phases.short.lr.warmup_tokens=5K", "phases.short.lr.warmup_tokens: 10000 -> 5000"),
        (MID_SHORT, "phases.short.tokens=10K", "phases.short.tokens: 50000 -> 10000"),
        (MID_SHORT, "phases.short.batch.warmup.tokens=8K", "phases.short.batch.warmup.tokens: 4000 -> 8000"),
        (MID_SHORT, "phases.short.batch.quantum_blocks=1", "phases.short.batch.quantum_blocks: 2 -> 1"),
        (MID_SHORT, "phases.short.masking.rate=0.2", "phases.short.masking.rate: 0.3 -> 0.2"),
        (MID_SHORT, "phases.short.streams.code=0.5", "phases.short.streams.code: 0.25 -> 0.5"),
        (MID_SHORT, "phases.short.shuffle_seed=1", "phases.short.shuffle_seed: 17 -> 1"),
        (MID_CONTEXT, "phases.short.tokens=60K", "phases.short.tokens: 50000 -> 60000"),
        (MID_CONTEXT, "phases.context.rope.global_theta=20_000", "phases.context.rope.global_theta"),
        (MID_ANNEAL, "phases.anneal.tokens=50K", "phases.anneal.tokens: 23000 -> 50000"),  # 1-sqrt spans the phase
        (END, "phase_order=[context,short,anneal]", "phase_order"),
    ],
)
def test_what_would_have_computed_something_else_is_named(clock, override, named):
    lines = difference(clock, override)
    assert any(named in line for line in lines), lines


def test_a_start_from_other_weights_is_named():
    assert "init.kind: random -> tiled" in difference(0, "init=tiled", "init.source=x")
    assert "start.from_source: False -> True" in difference(0, "start.source=x")


def test_an_old_configuration_of_other_keys_is_refused():
    with pytest.raises(ConfigError, match="unknown setting bygone"):
        results_difference({**to_plain(OLD), "bygone": 1}, OLD, 0)


BASE = ["recipe=modernbert_base"]
FAR = 1_700_000_000_000


@pytest.mark.parametrize(
    ("shape", "override", "differs"),
    [
        ("constant", "phases.pretrain.tokens=1.8T", False),
        ("cosine", "phases.pretrain.tokens=1.8T", True),
        ("linear", "phases.pretrain.tokens=1.7191T", True),
        ("warmup_stable_decay", "phases.pretrain.lr.decay_tokens=10B", True),
        ("constant", "phases.pretrain.lr.warmup_tokens=3.01B", True),
        ("constant", "phases.pretrain.batch.warmup.tokens=51B", True),
        ("constant", "phases.pretrain.batch.warmup.levels=1", True),
        ("constant", "phases.pretrain.masking={shape: step, end_rate: 0.1, step_at_tokens: 1.6999T}", True),
        ("constant", "phases.pretrain.masking={shape: step, end_rate: 0.1, step_at_tokens: 1.71T}", False),
    ],
)
def test_far_in_a_published_phase_a_few_steps_tell_schedules_apart(shape, override, differs):
    decay = {"warmup_stable_decay": "decay_tokens: 30B, floor: 0.1", "constant": "floor: 1.0"}.get(shape, "floor: 0.1")
    old = [*BASE, f"phases.pretrain.lr={{shape: {shape}, {decay}}}"]
    lines = results_difference(json.loads(json.dumps(to_plain(compose(old)))), compose([*old, override]), FAR)
    assert bool(lines) == differs, lines


def test_a_comparison_takes_no_longer_far_in_a_run():
    plan = plan_phases(compose(BASE))[0]
    near, far = (len(_telling_steps(plan, plan, plan.step_at_clock(share * FAR // 100))) for share in (1, 99))
    assert near <= far < 3_000
