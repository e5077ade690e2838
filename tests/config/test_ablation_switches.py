"""Each switch that the literature asks for is one field, passes the checks, and does something."""

import math
import sys
from pathlib import Path

import pytest

from padless.config.check import check
from padless.config.compose import compose
from padless.config.load import config_hash
from padless.schedule.masking_rate import mask_rate_at

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))

# switch: overrides away from what every recipe has; the docs have a table of them with the sources
SWITCHES = {
    "mask rate, linear": ["phases.short.masking={rate: 0.3, shape: linear, end_rate: 0.15}"],
    "mask rate, cosine": ["phases.short.masking={rate: 0.3, shape: cosine, end_rate: 0.15}"],
    "mask rate, step": ["phases.short.masking={rate: 0.3, shape: step, end_rate: 0.15, step_at_tokens: 2K}"],
    "split": ["phases.short.masking={mask_share: 1.0, random_share: 0.0}"],
    "z-loss": ["loss.z_loss=1e-4"],
    "global every layer": ["model.global_every_layers=1"],
    "window": ["model.local_window_tokens=16"],
    "theta of a phase": ["phases.short.rope={global_theta: 160_000, local_theta: 160_000}"],
    "optimizer": ["optimizer=adamw"],
}
STEPS, PHASE_TOKENS = 4, 8192


@pytest.mark.parametrize("recipe", ["smoke", "demo"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_passes_the_checks_of_a_recipe_and_is_part_of_its_results(recipe, switch):
    plain, switched = compose([f"recipe={recipe}"]), compose([f"recipe={recipe}", *SWITCHES[switch]])
    assert check(switched, 1) == []
    assert config_hash(switched) != config_hash(plain)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a function that trains the smoke recipe for a few steps with some switches and gives its metrics."""
    pytest.importorskip("composer")
    from runs import metrics, overrides, prepare_shared

    prepare_shared()
    folder = tmp_path_factory.mktemp("ablations")
    # Rows longer than half the window, the full rate from the first step on, and an end after few steps.
    few = {
        "phases.short.max_seq_len": 256, "phases.short.lr.warmup_tokens": 0, "phases.short.batch.warmup": "null",
        "phases.short.tokens": PHASE_TOKENS, "phases.short.save_every_tokens": "1M",
        "run.stop_after_tokens": 1024 * STEPS, "export.enabled": "false", "hardware": "cpu",
        "hardware.precision": "fp32", "eval.max_blocks": 1, "data.num_workers": 0,
    }  # fmt: skip

    def train(name, switches):
        from padless.train.run import run

        run(compose([*overrides(folder, **few), f"run.name={name}", *switches]))
        lines = metrics(folder / name)
        return [line for line in lines if "loss" in line], [line for line in lines if "eval_loss" in line]

    return train


@pytest.fixture(scope="module")
def plain(trained):
    return trained("plain", [])


@pytest.mark.slow
@pytest.mark.composer
@pytest.mark.parametrize("switch", [name for name in SWITCHES if not name.startswith("mask rate")])
def test_each_switch_changes_the_training_where_it_should(trained, plain, switch):
    (steps, _), (plain_steps, _) = trained(switch.replace(" ", "-"), SWITCHES[switch]), plain
    assert len(steps) == len(plain_steps) == STEPS
    assert all(math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"]) for line in steps)
    first, right = steps[0], plain_steps[0]
    if switch == "z-loss":  # the same weights: the logged loss is the cross-entropy alone, the gradient is not
        assert first["loss"] == right["loss"]
        # Of a fresh model lse is near log(2048), and 2 z lse of it adds to every row's softmax.
        assert 1e-6 < abs(first["grad_norm"] / right["grad_norm"] - 1) < 1e-2
    elif switch == "optimizer":
        assert (first["loss"], first["grad_norm"]) == (right["loss"], right["grad_norm"])
        # Until gradients outgrow their second moment the two are one; after that they part, far beyond rounding.
        assert abs(steps[-1]["loss"] - plain_steps[-1]["loss"]) > 1e-4
    else:
        assert first["loss"] != right["loss"]
        assert first["loss"] == pytest.approx(right["loss"], abs=0.1)
        assert first["blocks"] == right["blocks"]


ALL = [
    *SWITCHES["mask rate, cosine"],
    *SWITCHES["split"],
    *(text for name, texts in SWITCHES.items() if not name.startswith(("mask", "split")) for text in texts),
]


@pytest.mark.slow
@pytest.mark.composer
def test_a_run_with_all_of_them_trains_follows_its_mask_rate_and_resumes_bit_for_bit(trained, plain):
    steps, evaluations = trained("all", ALL)
    masking = compose(["recipe=smoke", *ALL]).phases["short"].masking
    assert (masking.shape, masking.mask_share) == ("cosine", 1.0)
    expected = [mask_rate_at(masking, PHASE_TOKENS, 1024 * number) for number in range(STEPS)]
    assert [line["mask_rate"] for line in steps] == pytest.approx(expected)
    assert 0.3 == expected[0] > expected[1] > expected[-1] > 0.15
    assert all(math.isfinite(line["loss"]) for line in steps)
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert all(line["eval_loss"] != other["eval_loss"] for line, other in zip(evaluations, plain[1], strict=True))
    trained("resumed", [*ALL, "run.stop_after_tokens=2048"])
    assert trained("resumed", ALL)[0] == steps
