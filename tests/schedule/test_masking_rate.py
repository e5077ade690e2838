"""Mask rate at each border of each shape."""

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
    ("step", 0.1, 400, 0, 0.3),
    ("step", 0.1, 400, 399, 0.3),
    ("step", 0.1, 400, 400, 0.1),
    ("step", 0.1, 400, 2000, 0.1),
]


@pytest.mark.parametrize(("shape", "end_rate", "step_at", "tokens", "expected"), TABLE)
def test_mask_rate_at_borders(shape, end_rate, step_at, tokens, expected):
    masking = MaskingConfig(0.3, shape, end_rate, step_at, 0.8, 0.1)
    assert mask_rate_at(masking, 1000, tokens) == pytest.approx(expected, rel=1e-12)
