"""Branches are checked as the runs that train them, and named as the user wrote them."""

from dataclasses import replace
from functools import cache

import pytest

from padless.config.branches import branch_config, in_words_of_branch, naming_branch, with_branches
from padless.config.check import check
from padless.config.compose import compose
from padless.config.load import load_config, results_part, to_plain
from padless.errors import ConfigError


@cache
def lab():
    return compose(["recipe=demo_branches"])


def changed(branch="science", **values):
    config = lab()
    return replace(config, branches={**config.branches, branch: replace(config.branches[branch], **values)})


def asked(**values):
    return replace(lab(), run=replace(lab().run, **values))


def refused(config):
    with pytest.raises(ConfigError) as caught:
        check(config, 1)
    return f"{caught.value.cause} | {caught.value.remedy}"


def test_the_demo_lab_has_nothing_to_mend():
    assert check(lab(), 2) == []
    assert check(asked(branch="code"), 2) == []


def test_a_branch_may_be_without_decay():
    flat = replace(lab().branches["science"].lr, shape="constant", floor=1.0)
    assert check(changed(lr=flat), 1) == []


def test_a_branch_called_like_a_phase_is_refused():
    config = replace(lab(), branches={"context": lab().branches["science"]})
    assert "branches.context is called like a phase | give the branch another name" in refused(config)


@pytest.mark.parametrize("name", ["a/b", "..", "", "a b"])
def test_a_branch_that_cannot_name_a_folder_is_refused(name):
    config = replace(lab(), branches={name: lab().branches["science"]})
    assert f"branches: {name!r} cannot name a folder | use letters" in refused(config)


def test_rules_of_phases_hold_for_branches_by_their_own_name():
    short = refused(changed(tokens=1_000))
    assert "branches.science.tokens=1_000 is less than one batch of 2_048 tokens" in short
    stranger = refused(changed(streams={"web": 1.0}))
    assert "branches.science.streams names 'web'" in stranger


def test_a_cut_that_fits_the_trunk_and_not_a_branch_is_refused():
    batch = replace(lab().branches["science"].batch, quantum_blocks=1)
    with pytest.raises(ConfigError, match=r"branches\.science\.batch\.quantum_blocks=1 is not a multiple"):
        check(changed(batch=batch), 2)


def test_warnings_of_a_branch_are_given_once_and_by_its_name():
    lines = check(changed(streams={"general": 2.0, "code": 1.0}), 1)
    assert lines == ["branches.science.streams (general=2, code=1) do not sum to 1 and are used as proportions"]


def test_a_stream_that_only_a_branch_reads_is_used():
    config = lab()
    only = replace(config.eval, streams=("general",))
    phases = {name: replace(phase, streams={"general": 1.0}) for name, phase in config.phases.items()}
    config = replace(config, eval=only, phases=phases)
    assert check(config, 1) == []
    without = replace(config, branches={})
    assert "data.streams.code is used by no phase and not by eval" in refused(without)


def test_asking_for_a_branch_that_is_not_there_names_the_nearest():
    assert "run.branch=scince is no branch of the recipe | did you mean run.branch=science?" in refused(
        asked(branch="scince")
    )
    none = replace(asked(branch="science"), branches={})
    assert "there are: none, the recipe has no branches" in refused(none)


def test_an_early_end_of_the_phases_has_no_effect_on_one_branch():
    text = refused(asked(branch="code", stop_after_tokens=500_000))
    assert "run.stop_after_tokens=500_000 has no effect with run.branch=code" in text


def test_a_change_may_be_accepted_by_the_name_of_the_branch():
    assert check(asked(accept_changes=("branches.code.lr.peak",)), 1) == []
    assert "branches.code.tokens, and a run cannot go on" in refused(asked(accept_changes=("branches.code.tokens",)))
    assert "which is no setting" in refused(asked(accept_changes=("branches.cod.lr.peak",)))


def test_a_branch_is_its_trunk_with_one_phase_more():
    config = asked(accept_changes=("run.seed", "branches.code.lr.peak", "branches.even.lr.peak"), profile_steps=3)
    branch = branch_config(config, "code", "trunk.pt")
    assert branch.phase_order == ("short", "context", "code")
    assert branch.phases["code"] == config.branches["code"]
    assert (branch.run.name, branch.run.folder) == ("code", "runs/demo_branches/branches")
    assert (branch.start.source, branch.start.keep) == ("trunk.pt", ("weights", "optimizer", "clock"))
    assert branch.run.accept_changes == ("run.seed", "phases.code.lr.peak")
    assert branch.run.profile_steps is None
    assert branch.branches == {}
    assert load_config(to_plain(branch)) == branch


def test_a_branch_of_a_tiled_trunk_begins_with_the_trunks_weights_and_tiles_nothing():
    tiled = compose(["recipe=demo_branches", "init=tiled", "init.source=small.pt", "init.mode=centre"])
    assert check(tiled, 1) == []
    assert branch_config(tiled, "code", "trunk.pt").init == lab().init


def test_branches_change_nothing_that_the_trunk_computes():
    assert results_part(replace(lab(), branches={})) == results_part(lab())
    assert list(with_branches(lab()).phases) == ["short", "context", "even", "science", "code"]


def test_only_the_settings_of_that_branch_are_renamed():
    text = "phases.code.lr.peak, phases.code2.lr.peak, phases.code-2, data.phases"
    assert in_words_of_branch(text, "code") == "branches.code.lr.peak, phases.code2.lr.peak, phases.code-2, data.phases"
    with (
        pytest.raises(ConfigError, match=r"^branches\.code\.tokens is wrong\n.*branches\.code\.tokens=3"),
        naming_branch("code"),
    ):
        raise ConfigError("phases.code.tokens is wrong", "write phases.code.tokens=3")
    with pytest.raises(ConfigError) as caught, naming_branch("code"):
        raise ConfigError("unrelated", "mend it")
    assert caught.value.__cause__ is None
