"""Mask rate at each border of each shape."""

import itertools

import pytest

from padless.config.schema import MaskingConfig
from padless.schedule.masking_rate import mask_rate_at

TABLE = [
    ("constant", None, None, 0, 0.3),
    ("constant", None, None, 2000, 0.3),
    ("linear", 0.1, None, 0, 0.3),
    ("linear", 0.1, None, 500, 0.2),
    ("linear", 0.1, None, 1000, 0.1),
    ("linear", 0.1, None, 1500, 0.1),
    ("linear", 0.1, None, 1, 0.2998),
    ("linear", 0.1, None, 999, 0.1002),
    ("linear", 0.5, None, 250, 0.35),
    # rate + (end - rate) (1 - cos(pi p)) / 2: half way at half time, 14.6 % of the way at a quarter, 85.4 % at three
    ("cosine", 0.1, None, 0, 0.3),
    ("cosine", 0.1, None, 250, 0.3 - 0.2 * (2 - 2**0.5) / 4),
    ("cosine", 0.1, None, 500, 0.2),
    ("cosine", 0.1, None, 750, 0.3 - 0.2 * (2 + 2**0.5) / 4),
    ("cosine", 0.1, None, 1000, 0.1),
    ("cosine", 0.1, None, 1500, 0.1),
    ("cosine", 0.5, None, 500, 0.4),
    ("step", 0.1, 400, 0, 0.3),
    ("step", 0.1, 400, 399, 0.3),
    ("step", 0.1, 400, 400, 0.1),
    ("step", 0.1, 400, 2000, 0.1),
]


@pytest.mark.parametrize(("shape", "end_rate", "step_at", "tokens", "expected"), TABLE)
def test_mask_rate_at_borders(shape, end_rate, step_at, tokens, expected):
    masking = MaskingConfig(0.3, shape, end_rate, step_at, 0.8, 0.1)
    assert mask_rate_at(masking, 1000, tokens) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_a_falling_rate_falls_all_the_way_and_stays_within_its_ends(shape):
    masking = MaskingConfig(0.3, shape, 0.15, None, 0.8, 0.1)
    rates = [mask_rate_at(masking, 1_000, tokens) for tokens in range(0, 1_001, 10)]
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))
    assert (rates[0], rates[-1]) == (0.3, 0.15)
