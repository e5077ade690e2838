"""Settings of first weights that have no effect or cannot work are refused before anything is built."""

import pytest

from padless.config.check import check
from padless.config.compose import compose
from padless.errors import ConfigError

TILED = ["init=tiled", "init.source=x"]


def refused(*overrides):
    with pytest.raises(ConfigError) as caught:
        check(compose(["recipe=smoke", *overrides]), 1)
    return f"{caught.value.cause} | {caught.value.remedy}"


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ("init.mode=edge", "init.mode=edge"),
        ("init.layer_map=[0,1]", "init.layer_map=[0,1]"),
        ("init.symmetry_noise_std=0.1", "init.symmetry_noise_std=0.1"),
        ("init.tile_moments=true", "init.tile_moments=true"),
        ("init.repeated_layers=silent", "init.repeated_layers=silent"),
        ("init.scale=published", "init.scale=published"),
    ],
)
def test_settings_of_tiling_are_refused_without_it(setting, shown):
    assert refused(setting) == f"{shown} has no effect without init=tiled | remove it"


@pytest.mark.parametrize(
    ("settings", "cause", "remedy"),
    [
        (["init.mode=centre", "init.scale=published"], "scale=published has no effect with init.mode=centre", "wrap"),
        (
            ["init.mode=centre", "init.symmetry_noise_std=0.1"],
            "init.symmetry_noise_std=0.1 has no effect with init.mode=centre, which duplicates nothing",
            "use init.mode=wrap",
        ),
        (["init.symmetry_noise_std=-0.1"], "std=-0.1 is not a share of a tensor's own deviation", "from 0 (off) to 1"),
        (["init.symmetry_noise_std=1.5"], "std=1.5 is not a share", "e.g. 0.1"),
        (["init.layer_map=[0,1,1]"], "init.layer_map has 3 entries, the model 2 layers", "null for the default map"),
    ],
)
def test_settings_of_tiling_that_cannot_work_are_refused(settings, cause, remedy):
    found = refused(*TILED, *settings)
    assert cause in found.split(" | ")[0]
    assert remedy in found.split(" | ")[1]


@pytest.mark.parametrize(
    "settings",
    [
        ["init.mode=centre"],
        ["init.mode=edge", "init.scale=published", "init.symmetry_noise_std=1"],
        ["init.layer_map=[0,0]", "init.tile_moments=true"],
    ],
)
def test_settings_of_tiling_that_go_together_pass(settings):
    check(compose(["recipe=smoke", *TILED, *settings]), 1)
