"""Settings are checked first, and an error names what works."""

import pytest

from padless.design.settings import parse_settings
from padless.errors import ConfigError


def test_defaults_are_the_published_basket_and_lengths():
    settings = parse_settings([])
    assert settings.budgets == (149_000_000,)
    assert [gpu.name for gpu in settings.basket] == ["t4", "l4", "a10", "rtx3090", "rtx4090", "a100", "h100"]
    assert [each.name for each in settings.workloads] == ["1 x 512", "128 x 512", "1 x 8192", "8 x 8192"]
    assert settings.grid.has_tile_rule
    assert not settings.measures
    assert not settings.has_memory
    assert settings.out is None


def test_settings_are_read(tmp_path):
    words = [
        "parameters=17M,1.03B",
        "context=4096",
        "short=128",
        "basket=RTX 4090,h100",
        "tolerance=0.01",
        "vocab=8192",
    ]
    words += ["layers=12", "hidden=512", "expansion=1.5-2.5", "tiles=false", "batch_tokens=8192", "top=3"]
    words += [f"out={tmp_path}/a.png", "candidates=5", "repeats=1", "front=time,memory", "--measure=True"]
    settings = parse_settings(words)
    assert settings.budgets == (17_000_000, 1_030_000_000)
    assert [each.name for each in settings.workloads] == ["1 x 128", "64 x 128", "1 x 4096", "2 x 4096"]
    assert [gpu.name for gpu in settings.basket] == ["rtx4090", "h100"]
    grid = settings.grid
    assert (grid.min_layers, grid.max_layers, grid.hidden_size, grid.vocab_size) == (12, 12, 512, 8192)
    assert (grid.min_expansion, grid.max_expansion, grid.has_tile_rule) == (1.5, 2.5, False)
    assert (settings.tolerance, settings.top, settings.candidates, settings.repeats) == (0.01, 3, 5, 1)
    assert settings.measures
    assert settings.has_memory
    assert settings.out == tmp_path / "a.png"


@pytest.mark.parametrize(
    ("words", "cause", "remedy"),
    [
        (["parameter=1M"], "unknown setting parameter=1M, did you mean parameters=1M", "settings are parameters, "),
        (["parameters"], "parameters has no value", "write e.g. parameters=149M"),
        (["top=3", "top=4"], "top is given twice", "give it once"),
        (["parameters=much"], "parameters=much is not one or more different numbers", "parameters=149M"),
        (["parameters=1M,1M"], "parameters=1M,1M is not one or more different numbers", "parameters=149M,395M"),
        (["parameters=0"], "parameters=0 is not one or more different numbers", "parameters=149M"),
        (["context=32"], "context=32 is less than 64", "write context=64 or more"),
        (["context=long"], "context=long is not a whole number", "context=8192"),
        (["short=8192"], "short=8192 is not shorter than context=8192", "give a shorter one"),
        (["batch_tokens=512"], "batch_tokens=512 is less than 8192", "batch_tokens=8192 or more"),
        (["basket=rtx5090"], "no GPU 'rtx5090' in the table", "did you mean rtx"),
        (["basket=t4,T4"], "basket=t4,T4 names a GPU twice", "name each once, of h200"),
        (["tolerance=0%"], "tolerance=0% is not a share above 0", "tolerance=2%"),
        (["tolerance=five"], "tolerance=five is not a share above 0", "tolerance=2%"),
        (["vocab=50000"], "vocab=50000 is not a multiple of 64", "the nearest is vocab=49984"),
        (["layers=8-4"], "layers=8-4 is not a range of positive numbers", "layers=4-40"),
        (["layers=a-b"], "layers=a-b is not a range of positive numbers", "layers=4-40"),
        (["expansion=0-4"], "expansion=0-4 is not a range of positive numbers", "expansion=1-4"),
        (["expansion=1-inf"], "expansion=1-inf is not a range of positive numbers", "expansion=1-4"),
        (["expansion=nan"], "expansion=nan is not a range of positive numbers", "expansion=1-4"),
        (["front=memory"], "front=memory is none of time and time,memory", "front=time,memory"),
        (["tiles=maybe"], "tiles=maybe is neither true nor false", "tiles=true"),
        (["hidden=640"], "hidden=640 is not a multiple of 256, which whole tiles", "hidden=512; tiles=false drops"),
        (["hidden=100", "tiles=false"], "hidden=100 is not a multiple of 64, the width of a head", "hidden=128"),
        (["top=0"], "top=0 is less than 1", "write top=1 or more"),
        (["candidates=4"], "candidates=4 has no effect without --measure", "add --measure"),
        (["out=shapes.jpg"], "out=shapes.jpg does not end in .png", "out=shapes.png"),
        (["out=no/such/a.png"], "there is no folder no/such", "make it, or give a file"),
    ],
)
def test_what_cannot_be_used_is_an_error_with_what_can(words, cause, remedy):
    with pytest.raises(ConfigError) as error:
        parse_settings(words)
    assert cause in error.value.cause
    assert remedy in error.value.remedy
