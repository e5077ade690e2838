"""The attention bench puts every backend over the same batches."""

import json

import pytest

from padless.bench.attention import DEFAULTS, Place, bench, list_places, summarise
from padless.errors import ConfigError


def test_batches_are_of_one_length_and_of_documents():
    places = list_places({**DEFAULTS, "lengths": "64,1024", "cases": "web"}, 2048)
    assert [place.name for place in places] == [
        "length 64, global",
        "length 64, window 128",
        "length 1024, global",
        "length 1024, window 128",
        "web, global",
        "web, window 128",
    ]
    assert (places[0].lengths, places[0].window_tokens) == ((64,) * 32, None)
    assert places[3].window_tokens == 128
    assert len(set(places[4].lengths)) > 1


def test_lengths_over_the_batch_are_refused():
    with pytest.raises(ConfigError, match="lengths=4096 is not one of 2048"):
        list_places({**DEFAULTS, "lengths": "4096"}, 2048)


def test_ratios_are_of_the_same_repeat():
    place = Place("length 4, global", (4, 4), None)
    spent = {place.name: {"blocked": [1.0, 2.0], "padded": [2.0, 6.0]}}
    result = summarise([place], spent, {})
    assert [(ratio.name, ratio.values) for ratio in result.ratios] == [
        ("length 4, global: blocked over padded", (2.0, 3.0))
    ]
    assert result.figures[0].values == (8.0, 4.0)


@pytest.mark.slow
def test_a_small_run_measures_every_backend(tmp_path, capsys):
    settings = ["lengths=16", "cases=short", "tokens=128", "heads=2", "width=16", "repeats=2"]
    bench([*settings, f"folder={tmp_path}"], as_json=True)
    plain = json.loads(capsys.readouterr().out)
    assert {each["who"] for each in plain["figures"]} == {"reference", "blocked", "sdpa", "padded"}
    assert all(len(each["values"]) == 2 for each in plain["figures"])
