"""Published recipes against the published tables, typed here by hand, field by field.

Batches are given there in sequences: 8 of 1024 tokens, or one of 8192, are a block.
"""

from functools import cache
from itertools import pairwise

import pytest

from padless.config.batch_sizes import batch_sizes
from padless.config.check import check
from padless.recipes.read import read_recipe
from padless.schedule.phases import plan_phases

B = 10**9
ROWS_A_BLOCK = {1024: 8, 8192: 1, 7999: 1}


read = cache(read_recipe)


def config_of(name):
    return read(name).config


def facts_of(name, phase):
    """The fields of the published tables, of one phase, in their units."""
    setting = config_of(name).phases[phase]
    rows = ROWS_A_BLOCK[setting.max_seq_len]
    warmup = setting.batch.warmup
    return {
        "tokens": setting.tokens,
        "seq_len": setting.max_seq_len,
        "batch": setting.batch.blocks * rows,
        "ramp": (warmup.from_blocks * rows, warmup.tokens, warmup.levels, warmup.equal) if warmup else None,
        "lr": setting.lr.peak,
        "lr_shape": setting.lr.shape,
        "lr_warmup": setting.lr.warmup_tokens,
        "lr_end": setting.lr.floor,
        "weight_decay": setting.weight_decay,
        "mask": setting.masking.rate,
        "mask_shape": setting.masking.shape,
        "theta": (setting.rope.global_theta, setting.rope.local_theta),
        "shuffle_seed": setting.shuffle_seed,
    }


ARCHITECTURE = {  # ModernBERT: table 4 and the per-phase configs
    "num_layers": (22, 28),
    "hidden_size": (768, 1024),
    "num_heads": (12, 16),
    "intermediate_size": (1152, 2624),
    "vocab_size": (50_368, 50_368),
    "global_every_layers": (3, 3),
    "local_window_tokens": (128, 128),
    "norm_eps": (1e-5, 1e-5),
    "attention_out_dropout": (0.1, 0.1),
    "mlp_dropout": (0.0, 0.0),
    "embedding_dropout": (0.0, 0.0),
    "init_std": (0.02, 0.02),
    "init_cutoff_factor": (2.0, 2.0),
}

COMMON = {"lr_warmup": 0, "lr_shape": "constant", "lr_end": 1.0, "ramp": None, "mask": 0.30, "mask_shape": "constant"}
SHORT = {**COMMON, "seq_len": 1024, "theta": (10_000, 10_000)}
LONG = {**COMMON, "seq_len": 8192, "theta": (160_000, 10_000), "shuffle_seed": 2998}
DECAY = {**LONG, "lr_shape": "one_minus_sqrt", "lr_end": 0.001, "tokens": 50 * B}
LARGE_FIRST = {**SHORT, "batch": 4928, "ramp": (448, 10 * B, 10, "steps"), "lr": 5e-4, "lr_warmup": 2 * B,
               "weight_decay": 1e-5, "shuffle_seed": 314}  # fmt: skip
LARGE_REST = {
    "context": {**LONG, "tokens": 250 * B, "batch": 616, "lr": 5e-5, "weight_decay": 1e-6},
    "anneal": {**DECAY, "batch": 624, "lr": 5e-5, "weight_decay": 1e-6},
}
MODERNBERT = {  # table 3 of the paper, with the configs' global batches where it prints those of one GPU
    "modernbert_base": {
        "pretrain": {**SHORT, "tokens": 1_719 * B, "batch": 4608, "ramp": (768, 50 * B, 5, "steps"), "lr": 8e-4,
                     "lr_warmup": 3 * B, "weight_decay": 1e-5, "shuffle_seed": 9176},
        "context": {**LONG, "tokens": 250 * B, "batch": 576, "lr": 3e-4, "weight_decay": 1e-5},
        "anneal": {**DECAY, "batch": 576, "lr": 3e-4, "weight_decay": 1e-5},
    },
    "modernbert_large": {
        "pretrain": {**LARGE_FIRST, "tokens": 900 * B},
        "pretrain_rollback": {**SHORT, "tokens": 819 * B, "batch": 4928, "lr": 5e-5, "weight_decay": 1e-6,
                              "shuffle_seed": 314},
        **LARGE_REST,
    },
    "modernbert_large_no_rollback": {"pretrain": {**LARGE_FIRST, "tokens": 1_719 * B}, **LARGE_REST},
}  # fmt: skip
RAMPS = {  # what the published loader does with its microbatch x GPUs as the unit
    "modernbert_base": [768, 1536, 2304, 3072, 3840, 4608],
    "modernbert_large": [448, 896, 1344, 1792, 2240, 2688, 3136, 3584, 4032, 4480, 4928],
}

# Ettin: the three configs of each size; rates, warmups, decay, microbatch of the first phase on 4 GPUs.
ETTIN_SHAPES = {"17m": (7, 256, 384, 4), "32m": (10, 384, 576, 6), "68m": (19, 512, 768, 8),
                "150m": (22, 768, 1152, 12), "400m": (28, 1024, 2624, 16), "1b": (28, 1792, 3840, 28)}  # fmt: skip
ETTIN_RATES = {  # lr of the first two phases, lr of the third, lr warmup, weight decay, ramp, microbatch
    "17m": (3e-3, 1.5e-3, 4 * B, 3e-4, 125 * B, 144),
    "32m": (3e-3, 1.5e-3, 4 * B, 3e-4, 100 * B, 128),
    "68m": (3e-3, 1.5e-3, 3 * B, 3e-4, 75 * B, 96),
    "150m": (8e-4, 4e-4, 3 * B, 1e-5, 50 * B, 72),
    "400m": (5e-4, 2.5e-4, 2 * B, 1e-5, 10 * B, 48),
    "1b": (5e-4, 2.5e-4, 2 * B, 5e-5, 3 * B, 24),
}
ETTIN_TOKENS = {"1b": (1_700 * B, 83_333_000_000, 16_666_666_667)}
ETTIN_PARAMETERS = {"17m": 17e6, "32m": 32e6, "68m": 68e6, "150m": 150e6, "400m": 400e6, "1b": 1e9}


def ettin_phases(size):
    lr, last_lr, lr_warmup, weight_decay, ramp_tokens, microbatch = ETTIN_RATES[size]
    first = 4 * microbatch
    tokens = ETTIN_TOKENS.get(size, (1_700 * B, 250 * B, 50 * B))
    common = {"batch": 4608, "weight_decay": weight_decay, "shuffle_seed": 21, "mask_shape": "constant"}
    late = {**common, "seq_len": 7999, "ramp": None, "lr_warmup": 0, "lr_shape": "one_minus_sqrt"}
    return {
        "pretrain": {**common, "tokens": tokens[0], "seq_len": 1024, "lr": lr, "lr_warmup": lr_warmup, "lr_end": 1.0,
                     "lr_shape": "constant", "mask": 0.30, "theta": (10_000, 10_000),
                     "ramp": (first, ramp_tokens, 4608 // first - 1, "steps")},
        "context": {**late, "tokens": tokens[1], "lr": lr, "lr_end": 0.5, "mask": 0.30,
                    "theta": (160_000, 10_000 if size == "17m" else 160_000)},
        "anneal": {**late, "tokens": tokens[2], "lr": last_lr, "lr_end": 0.04, "mask": 0.15,
                   "theta": (160_000, 160_000)},
    }  # fmt: skip


@pytest.mark.parametrize("column", [0, 1], ids=["base", "large"])
def test_architectures_are_those_of_the_paper(column):
    names = [["modernbert_base"], ["modernbert_large", "modernbert_large_no_rollback"]][column]
    for name in names:
        model = config_of(name).model
        assert {key: getattr(model, key) for key in ARCHITECTURE} == {
            key: row[column] for key, row in ARCHITECTURE.items()
        }
    assert read(names[0]).parameters == pytest.approx([149e6, 395e6][column], rel=0.005)


@pytest.mark.parametrize("name", MODERNBERT)
def test_every_phase_of_modernbert_is_the_published_table(name):
    expected = MODERNBERT[name]
    assert list(config_of(name).phase_order) == list(expected)
    assert {phase: facts_of(name, phase) for phase in expected} == expected


@pytest.mark.parametrize("name", MODERNBERT)
def test_what_modernbert_shares_over_phases_is_the_published_table(name):
    config = config_of(name)
    optimizer = config.optimizer
    assert (optimizer.kind, optimizer.beta1, optimizer.beta2, optimizer.eps) == ("stable_adamw", 0.90, 0.98, 1e-6)
    assert config.run.seed == (17 if name == "modernbert_base" else 314)
    assert config.loss.z_loss == 0
    assert config.eval.mask_rate == 0.15
    for phase in config.phases.values():
        assert (phase.masking.mask_share, phase.masking.random_share) == (0.8, 0.1)
    assert sum(phase.tokens for phase in config.phases.values()) == 2_019 * B
    assert config.data.block_tokens == 8192


@pytest.mark.parametrize("name", RAMPS)
def test_ramps_take_the_published_sizes(name):
    assert [8 * size for size in batch_sizes(config_of(name).phases["pretrain"].batch)] == RAMPS[name]


@pytest.mark.parametrize(("name", "steps"), [("modernbert_base", 4240), ("modernbert_large", 396)])
def test_ramps_hold_each_size_for_the_published_steps(name, steps):
    levels = plan_phases(config_of(name))[0].levels
    held = {(end - start) // size for (start, size), (end, _) in pairwise(levels)}
    assert len(held) == 1
    assert held.pop() == pytest.approx(steps, rel=0.005)


@pytest.mark.parametrize("name", MODERNBERT)
def test_checkpoints_are_as_often_as_published(name):
    config = config_of(name)
    for phase_name, phase in config.phases.items():
        batches = phase.save_every_tokens / (phase.batch.blocks * config.data.block_tokens)
        assert batches == pytest.approx(1000 if phase_name == "anneal" else 4000, rel=0.002)
        assert phase.eval_every_tokens == phase.save_every_tokens


@pytest.mark.parametrize("name", [*MODERNBERT, "modernbert_base_10b", "modernbert_base_1b", "single_24gb"])
def test_all_checkpoints_of_the_anneal_are_kept_to_merge_the_best_of(name):
    config = config_of(name)
    phase = config.phases[config.phase_order[-1]]
    assert phase.keep_every_tokens == phase.save_every_tokens == phase.eval_every_tokens
    assert phase.tokens // phase.save_every_tokens > 3


def test_large_starts_from_where_base_ends_its_first_phase():
    base = config_of("modernbert_base")
    clock = plan_phases(base)[0].actual_end_tokens
    for name in ("modernbert_large", "modernbert_large_no_rollback"):
        init = config_of(name).init
        assert init.kind == "tiled"
        assert init.source == f"runs/{base.run.name}/checkpoints/pretrain/pretrain-{clock:_}tok.pt"
        assert (
            config_of(name).phases["pretrain"].rope == base.phases["pretrain"].rope
        )  # tiled without a change of theta
    assert base.init.kind == "random"


def test_the_two_larges_differ_in_the_first_phase_alone():
    with_it, without = config_of("modernbert_large"), config_of("modernbert_large_no_rollback")
    assert with_it.model == without.model
    first, second = with_it.phases["pretrain"], with_it.phases["pretrain_rollback"]
    assert first.tokens + second.tokens == without.phases["pretrain"].tokens
    for name in ("context", "anneal"):
        assert with_it.phases[name] == without.phases[name]


@pytest.mark.parametrize("size", ETTIN_SHAPES)
def test_every_phase_of_ettin_is_its_published_configs(size):
    name = f"ettin_{size}"
    expected = ettin_phases(size)
    assert list(config_of(name).phase_order) == list(expected)
    assert {phase: facts_of(name, phase) for phase in expected} == expected
    assert config_of(name).run.seed == 21
    assert {phase.save_every_tokens for phase in config_of(name).phases.values()} == {8_500_000_000}


@pytest.mark.parametrize("size", ETTIN_SHAPES)
def test_ettin_has_its_published_shapes_and_sizes(size):
    model = config_of(f"ettin_{size}").model
    assert (model.num_layers, model.hidden_size, model.intermediate_size, model.num_heads) == ETTIN_SHAPES[size]
    assert read(f"ettin_{size}").parameters == pytest.approx(ETTIN_PARAMETERS[size], rel=0.035)


@pytest.mark.parametrize("size", ETTIN_SHAPES)
def test_ettin_runs_on_four_gpus_with_its_published_microbatch(size):
    recipe = read(f"ettin_{size}")
    blocks = ETTIN_RATES[size][-1] // 8
    assert recipe.hardware == ("hardware=4xh100", f"hardware.microbatch_blocks={blocks}")
    assert check(recipe.config, 4) == []


def test_mmbert_lowers_its_masks_and_ends_in_three_ways():
    config = config_of("mmbert_style")
    assert [config.phases[name].masking.rate for name in config.phase_order] == [0.30, 0.15]
    assert [config.phases[name].tokens for name in config.phase_order] == [2_300 * B, 600 * B]
    assert len(config.branches) == 3
    for branch in config.branches.values():
        assert (branch.tokens, branch.masking.rate, branch.max_seq_len) == (100 * B, 0.05, 8192)
        assert (branch.lr.peak, branch.lr.shape, branch.lr.floor) == (8e-4, "one_minus_sqrt", 0.02)
        assert (branch.rope.global_theta, branch.rope.local_theta) == (160_000, 160_000)
    assert len({tuple(branch.streams) for branch in config.branches.values()}) == 3
    assert config.model.vocab_size == 256_000
    assert read("mmbert_style").parameters == pytest.approx(307e6, rel=0.005)
