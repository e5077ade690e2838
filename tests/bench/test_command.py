"""What ``padless bench`` refuses, by name."""

import pytest

from padless.bench.command import (
    SPEED_BENCHES,
    at_least_one,
    bench_command,
    one_of,
    require_survival,
    settings_of,
    whole_number,
)
from padless.errors import ConfigError, TrainingError


@pytest.mark.parametrize("arguments", [[], ["chao"], ["kills=3"]])
def test_an_unknown_bench_is_refused_with_the_known_ones(arguments):
    with pytest.raises(ConfigError, match="is not a bench") as caught:
        bench_command(arguments, as_json=False)
    names = ["chaos", "resume", *SPEED_BENCHES]
    assert caught.value.remedy == f"write padless bench and one of {', '.join(names)}"


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


def test_numbers_and_words_out_of_range_are_refused():
    assert at_least_one("batches", "20") == 20
    with pytest.raises(ConfigError, match="batches=0 is less than 1"):
        at_least_one("batches", "0")
    assert one_of("quick", "true", ("true", "false")) == "true"
    with pytest.raises(ConfigError, match="quick=yes is not one of true, false"):
        one_of("quick", "yes", ("true", "false"))


def test_kills_that_were_not_survived_end_the_bench_by_name(tmp_path):
    require_survival({"summary": "survived 2/2", "failures": []}, tmp_path)
    failed = {"summary": "survived 1/2", "failures": ["kill 2 (export, rank): not reached"]}
    with pytest.raises(TrainingError, match=r"survived 1/2; not: kill 2 \(export, rank\): not reached") as caught:
        require_survival(failed, tmp_path)
    assert str(tmp_path) in caught.value.remedy
