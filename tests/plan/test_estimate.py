"""A run's hours, cost, disk and rates."""

from dataclasses import replace

import pytest

from padless.config.compose import compose
from padless.model.count import count_parameters
from padless.plan.devices import GPUS
from padless.plan.estimate import (
    OTHER_GPU_HOURS,
    Speed,
    all_phases,
    checkpoints_on_disk,
    estimate,
    exposed_seconds,
    mean_mask_rate,
    ring_bytes,
    token_bytes,
)
from padless.plan.hardware import machine_of, parse_machine

PUBLISHED = {  # GPU-hours on 8 H100: training alone, and with evaluation and the rest (arXiv 2412.13663, table 3)
    "modernbert_base": {"pretrain": (1529, 1553), "context": (290, 319), "anneal": (60, 92)},
    "modernbert_large": {"pretrain": (3363, 3402), "context": (601, 645), "anneal": (123, 173)},
}


def estimated(*overrides, machine="8xh100", blocks=1, **settings):
    return estimate(compose(overrides), parse_machine(machine), blocks, 2.0, **settings)


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_each_published_phase_is_met_within_15_percent(recipe):
    run = estimated(f"recipe={recipe}")
    found = {name: [0.0, 0.0] for name in PUBLISHED[recipe]}
    for phase in run.phases:  # the published first phase may be several of ours
        name = next(each for each in found if phase.plan.name.startswith(each))
        found[name][0] += phase.gpu_hours_training
        found[name][1] += phase.gpu_hours
    for name, (training, total) in PUBLISHED[recipe].items():
        assert found[name][0] == pytest.approx(training, rel=0.15), name
        assert found[name][1] == pytest.approx(total, rel=0.15), name


def test_more_gpus_take_less_time_and_the_same_gpu_hours():
    one, eight = estimated("recipe=modernbert_base", machine="1xh100"), estimated("recipe=modernbert_base")
    assert eight.gpu_hours == pytest.approx(one.gpu_hours, rel=0.01)
    assert eight.loader_tokens_per_s == pytest.approx(8 * one.loader_tokens_per_s, rel=0.01)
    assert eight.cost == pytest.approx(2.0 * eight.gpu_hours)


def test_a_slow_link_is_waited_for():
    assert exposed_seconds(10**9, machine_of(GPUS["h100"], 8), backward_s=1.0) == 0.0
    slow = machine_of(GPUS["h100"], 8, link_gb_s=1.0)
    assert exposed_seconds(10**9, slow, backward_s=1.0) == pytest.approx(6.0)  # 7 GB at 1 GB/s
    assert ring_bytes(10**9, 1) == 0.0
    fast, waiting = (
        estimate(compose(["recipe=modernbert_base"]), machine_of(GPUS["h100"], 8, link_gb_s=link), 1, 1.0)
        for link in (450.0, 0.1)
    )
    assert waiting.gpu_hours > fast.gpu_hours
    assert waiting.phases[0].exposed_s > 0 == fast.phases[0].exposed_s


@pytest.mark.parametrize("link_gb_s", [450.0, 0.1])
def test_rates_and_mfu_are_of_the_same_hours(link_gb_s):
    machine = machine_of(GPUS["h100"], 8, link_gb_s=link_gb_s)
    run = estimate(compose(["recipe=modernbert_base"]), machine, 1, 1.0)
    for phase in run.phases:
        assert phase.tokens_per_s * phase.gpu_hours_training / 8 * 3600 == pytest.approx(phase.tokens)
        real = phase.tokens_per_s * phase.data.fill * phase.work.flops
        assert phase.mfu == pytest.approx(real / 8 / (machine.device.peak_tflops * 1e12))
    assert run.loader_tokens_per_s == max(phase.tokens_per_s for phase in run.phases)
    assert run.loader_bytes_per_s == 2 * run.loader_tokens_per_s


def test_other_hours_are_the_published_ones_and_at_most_half():
    base, demo = estimated("recipe=modernbert_base"), estimated(machine="1xcpu")
    assert base.phases[0].gpu_hours - base.phases[0].gpu_hours_training == OTHER_GPU_HOURS
    assert demo.gpu_hours == demo.gpu_hours_training  # a CPU's are not known
    short = estimated("recipe=modernbert_base_1b", machine="1xh100")
    assert short.gpu_hours == pytest.approx(1.5 * short.gpu_hours_training)


def test_other_hours_of_another_gpu_grow_as_training_does():
    h100, l4 = (estimated("recipe=modernbert_base", machine=name).phases[0] for name in ("8xh100", "8xl4"))
    assert l4.gpu_hours_other / h100.gpu_hours_other == pytest.approx(l4.seconds_a_token / h100.seconds_a_token)
    assert l4.gpu_hours_other > OTHER_GPU_HOURS


def test_a_measured_speed_replaces_the_model():
    config = compose([])
    speed = Speed(dict.fromkeys(config.phases, 1e9), 1e-9, "measured")
    run = estimated(machine="1xcpu", speed=speed)
    phase = run.phases[0]
    steps_s = phase.plan.steps_in_phase * 1e-9 * count_parameters(config.model).total
    assert phase.gpu_hours_training * 3600 == pytest.approx(phase.work.flops * phase.tokens / 1e9 + steps_s)


def test_longer_segments_cost_more():
    short, full = (estimated("recipe=modernbert_base", lengths=name) for name in ("web", "full"))
    assert full.phases[1].work.attention_flops > 2 * short.phases[1].work.attention_flops
    assert full.phases[1].gpu_hours > short.phases[1].gpu_hours


def test_branches_are_phases_of_their_own():
    names = [(plan.name, is_branch) for plan, is_branch in all_phases(compose(["recipe=demo_branches"]))]
    assert [name for name, is_branch in names if is_branch] == ["even", "science", "code"]
    assert [name for name, is_branch in names if not is_branch] == ["short", "context"]
    assert all(phase.gpu_hours > 0 for phase in estimated("recipe=demo_branches", machine="1xcpu").phases)


def test_checkpoints_are_counted_with_retention():
    # 900K, 300K, 300K tokens, saved every 300K, 150K, 150K: 3 + 2 + 2 saves; and one that is being written
    assert checkpoints_on_disk(compose(["run.keep_newest_checkpoints=null"])) == 8
    assert checkpoints_on_disk(compose(["run.keep_newest_checkpoints=1"])) == 3 + 1 + 1
    kept = compose(["run.keep_newest_checkpoints=1", "phases.short.keep_every_tokens=300K"])
    assert checkpoints_on_disk(kept) == 3 + 3 + 1 + 1


def test_each_branch_is_a_run_that_keeps_its_own_newest_and_its_end():
    branched = [compose(["recipe=demo_branches", f"run.keep_newest_checkpoints={newest}"]) for newest in (1, "null")]
    trunk = [replace(config, branches={}) for config in branched]
    saves = [-(-each.tokens // each.save_every_tokens) for each in branched[0].branches.values()]
    assert len(saves) == 3
    assert min(saves) >= 1
    with_newest = sum(min(number, 1 + 1) for number in saves)
    assert checkpoints_on_disk(branched[0]) - checkpoints_on_disk(trunk[0]) == with_newest
    assert checkpoints_on_disk(branched[1]) - checkpoints_on_disk(trunk[1]) == sum(saves)


def test_a_changing_mask_rate_counts_by_its_mean():
    config = compose(["phases.short.masking={shape: linear, end_rate: 0.1}"])
    assert mean_mask_rate(config.phases["short"]) == pytest.approx(0.2, abs=1e-3)
    assert mean_mask_rate(config.phases["context"]) == pytest.approx(0.3)


def test_tokens_of_a_large_vocabulary_take_four_bytes():
    assert (token_bytes(50_368), token_bytes(2**16), token_bytes(256_000)) == (2, 2, 4)
