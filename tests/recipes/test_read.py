"""Every recipe composes, passes all checks for the hardware it names, plans, and cites its sources."""

import re
from functools import cache

import pytest

from padless.config.check import check, ranks_to_check
from padless.config.compose import YAML_FOLDER, compose
from padless.errors import ConfigError
from padless.plan.table import plan_rows
from padless.recipes.read import TO_BE_GIVEN, read_recipe, recipe_names
from padless.recipes.sources import sources_in

RECIPES = recipe_names()
read = cache(read_recipe)
OURS = {
    "demo",
    "demo_branches",
    "smoke",
    "domain_continued",
    "domain_short",
}  # whose headers say that every number is ours
SCALED = {"modernbert_base_10b": 200, "modernbert_base_1b": 2000, "single_24gb": 200}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_composes_checks_and_plans_for_the_hardware_it_names(name):
    recipe = read(name)
    given = [f"{key}=somewhere" for key in recipe.needs]
    config = compose([f"recipe={name}", *recipe.hardware, *given])
    assert check(config, ranks_to_check(config, {})) == []
    rows = plan_rows(config)
    assert [row.phase for row in rows][: len(config.phase_order)] == list(config.phase_order)
    assert all(row.steps > 0 for row in rows)


def test_only_what_continues_other_weights_needs_a_setting():
    continued = ("domain_continued", "domain_short", "domain_stable_then_anneal")
    assert {name: read(name).needs for name in RECIPES if read(name).needs} == dict.fromkeys(
        continued, ("start.source",)
    )
    assert read("domain_continued").config.start.source == TO_BE_GIVEN


def test_hardware_comes_from_the_command_in_the_header():
    assert read("modernbert_base").hardware == ("hardware=8xh100",)
    assert read("modernbert_large").hardware == ("hardware=8xh100", "hardware.microbatch_blocks=1")
    assert read("single_24gb").hardware == ()  # chosen by the recipe itself


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in OURS] + ["shared/ettin"])
def test_every_line_of_a_phase_says_where_its_values_come_from(name):
    text = (YAML_FOLDER / "recipe" / f"{name}.yaml").read_text()
    sources = sources_in(text, name)
    sections = {key.rpartition(".")[0] for key in sources}
    values = [key for key in sources if key not in sections and key.split(".")[0] in ("phases", "branches")]
    assert [key for key in values if not sources[key].comment] == []


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_in_its_first_line_what_it_is(name):
    assert re.fullmatch(r"[A-Z].{20,130}[^ ]", read(name).description)


@pytest.mark.parametrize("name", SCALED)
def test_scaled_recipes_keep_every_proportion(name):
    full, small = read("modernbert_base").config, read(name).config
    by = SCALED[name]
    assert small.phase_order == full.phase_order
    assert (small.model, small.optimizer, small.loss, small.init) == (full.model, full.optimizer, full.loss, full.init)
    for phase_name in full.phase_order:
        whole, part = full.phases[phase_name], small.phases[phase_name]
        assert part.tokens * by == whole.tokens
        assert part.lr.warmup_tokens * by == whole.lr.warmup_tokens
        assert part.save_every_tokens * by == whole.save_every_tokens
        assert part.eval_every_tokens * by == whole.eval_every_tokens
        assert (part.keep_every_tokens or 0) * by == (whole.keep_every_tokens or 0)
        kept = ("max_seq_len", "streams", "rope", "weight_decay", "masking", "shuffle_seed")
        assert [getattr(part, key) for key in kept] == [getattr(whole, key) for key in kept]
        assert (part.lr.peak, part.lr.shape, part.lr.floor) == (whole.lr.peak, whole.lr.shape, whole.lr.floor)
        assert part.batch.blocks / part.batch.quantum_blocks == whole.batch.blocks / whole.batch.quantum_blocks
    ramp, whole_ramp = small.phases["pretrain"].batch.warmup, full.phases["pretrain"].batch.warmup
    assert ramp.tokens * by == whole_ramp.tokens
    assert (ramp.levels, ramp.equal) == (whole_ramp.levels, whole_ramp.equal)
    assert ramp.from_blocks * 6 == small.phases["pretrain"].batch.blocks


@pytest.mark.parametrize(("name", "by"), list(SCALED.items()))
def test_batches_of_scaled_recipes_follow_the_rule_they_cite(name, by):
    wanted = 576 / by**0.47  # critical batch size against tokens [arXiv 2410.21676]
    batch = read(name).config.phases["pretrain"].batch
    assert batch.blocks == -(-wanted // 24) * 24  # up to what 4 ranks can cut at every level of the ramp


def test_one_gpu_gets_the_same_batches_as_eight():
    many, one = read("modernbert_base_10b").config, read("single_24gb").config
    assert one.phases == many.phases
    assert one.hardware.world_size == 1
    assert compose(["recipe=single_24gb", "hardware=cpu"]).hardware.device == "cpu"  # the command line wins


def test_a_recipe_that_does_not_exist_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no recipe called 'ettin_149m'\n.*did you mean ettin_1"):
        read_recipe("ettin_149m")
