"""A recipe for a domain of any size: four passes at most, enough steps, batches that the ranks can cut."""

import pytest

from padless.config.compose import compose
from padless.domain.sizing import LEAST_STEPS, DomainSize, size_run

RECIPE = compose(["recipe=domain_continued", "start.source=weights"])
PHASES = {name: RECIPE.phases[name] for name in RECIPE.phase_order}


def sized(domain_tokens, share=0.9, passes=4.0, block_tokens=8192, cut_blocks=8, phases=PHASES, fill=1.0):
    sizing = size_run(phases, DomainSize(domain_tokens, fill), share, passes, block_tokens, cut_blocks)
    return sizing, dict(word.split("=") for word in sizing.overrides)


def test_a_large_domain_is_trained_as_the_recipe_says():
    sizing, settings = sized(10**11)
    assert sizing.total_tokens == 10**10
    assert settings["phases.adapt.tokens"] == "8000000000"
    assert settings["phases.anneal.tokens"] == "2000000000"
    assert settings["phases.adapt.batch.blocks"] == "96"


def test_a_small_one_is_seen_four_times_in_the_proportions_of_the_recipe():
    sizing, settings = sized(9 * 10**7)
    assert sizing.total_tokens == 4 * 10**8
    assert (settings["phases.adapt.tokens"], settings["phases.anneal.tokens"]) == ("320000000", "80000000")
    assert "90_000_000 domain tokens, seen 4 times" in sizing.line
    blocks = int(settings["phases.adapt.batch.blocks"])
    assert blocks == 96
    assert 4 * 10**8 / (blocks * 8192) >= LEAST_STEPS


@pytest.mark.parametrize("domain_tokens", [10**5, 10**6, 10**7, 3 * 10**8, 10**9])
@pytest.mark.parametrize("cut_blocks", [1, 8])
def test_batches_are_cut_evenly_and_every_phase_has_a_step(domain_tokens, cut_blocks):
    _, settings = sized(domain_tokens, cut_blocks=cut_blocks)
    for name in PHASES:
        blocks = int(settings[f"phases.{name}.batch.blocks"])
        assert blocks % cut_blocks == 0
        assert settings[f"phases.{name}.batch.quantum_blocks"] == str(blocks)
        assert int(settings[f"phases.{name}.tokens"]) >= blocks * 8192
        assert int(settings[f"phases.{name}.eval_every_tokens"]) >= blocks * 8192


def test_validation_takes_no_more_forward_passes_than_training():
    assert sized(10**11)[1]["eval.max_blocks"] == "2048"
    assert sized(10**5)[1]["eval.max_blocks"] == "64"
    sizing, settings = sized(10**6, block_tokens=512)
    evaluated = int(settings["eval.max_blocks"]) * 512 * 10 * len(PHASES)
    assert 0.9 * 3 * sizing.total_tokens < evaluated <= 3 * sizing.total_tokens


def test_a_warmup_shrinks_with_its_phase():
    short = compose(["recipe=domain_short", "start.source=weights"])
    sizing, settings = sized(10**7, share=1.0, phases=dict(short.phases))
    assert sizing.total_tokens == 4 * 10**7
    assert settings["phases.adapt.lr.warmup_tokens"] == "400000"


def test_blocks_that_are_filled_in_part_take_more_of_the_clock():
    sizing, settings = sized(10**6, share=1.0, cut_blocks=1, fill=0.5)
    assert sizing.total_tokens == 8 * 10**6
    assert "1_000_000 domain tokens, seen 4 times" in sizing.line
    tokens = [int(settings[f"phases.{name}.tokens"]) for name in PHASES]
    assert sizing.steps == sum(-(-each // 8192) for each in tokens)


def test_text_of_less_than_a_block_is_seen_by_one_step_a_phase_and_that_is_said():
    sizing, _ = sized(2_000, share=1.0, cut_blocks=1, fill=2_000 / 8192, passes=1.0)
    assert sizing.steps == 2
    assert "2_000 domain tokens, seen 2 times" in sizing.line
