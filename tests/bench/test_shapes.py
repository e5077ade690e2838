"""Shapes of the benches go by name, with another vocabulary where asked for."""

import pytest

from padless.bench.shapes import SHAPES, shape_of
from padless.errors import ConfigError


def test_a_vocabulary_may_follow_the_name():
    assert shape_of("6x384").vocab_size == 50_368
    assert shape_of("6x384@8192").vocab_size == 8_192
    assert shape_of("6x384@50368") == SHAPES["6x384"]


@pytest.mark.parametrize("name", ["huge", "6x384@", "6x384@many", "@8192"])
def test_an_unknown_shape_is_refused(name):
    with pytest.raises(ConfigError, match=f"shapes={name} is not a shape of the benches"):
        shape_of(name)
