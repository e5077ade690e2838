"""What ``padless bench`` refuses, by name."""

import pytest

from padless.bench.command import bench_command, settings_of, whole_number
from padless.errors import ConfigError


@pytest.mark.parametrize("arguments", [[], ["chao"], ["kills=3"]])
def test_an_unknown_bench_is_refused_with_the_known_ones(arguments):
    with pytest.raises(ConfigError, match="is not a bench") as caught:
        bench_command(arguments, as_json=False)
    assert caught.value.remedy == "write padless bench chaos or padless bench resume"


@pytest.mark.parametrize("text", ["kill=3", "kills", "kills=", "seed 3"])
def test_an_unknown_setting_is_refused_with_the_known_ones(text):
    with pytest.raises(ConfigError, match=f"'{text}' is not one of kills, seed with a value"):
        settings_of([text], {"kills": "30", "seed": "0"})
    with pytest.raises(ConfigError, match="is not one of kills, seed, processes, folder"):
        bench_command(["chaos", "killings=3"], as_json=False)


def test_settings_take_the_place_of_defaults():
    assert settings_of(["seed=7"], {"kills": "30", "seed": "0"}) == {"kills": "30", "seed": "7"}


def test_what_is_not_a_whole_number_is_refused():
    assert whole_number("blocks", "1_000_000") == 1_000_000
    with pytest.raises(ConfigError, match="kills=many is not a whole number"):
        bench_command(["chaos", "kills=many"], as_json=False)
    with pytest.raises(ConfigError, match=r"repeats=1.5 is not a whole number"):
        bench_command(["resume", "repeats=1.5"], as_json=False)
