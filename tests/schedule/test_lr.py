"""Learning rate at each border of each shape."""

import math

import pytest

from padless.config.schema import LrConfig
from padless.schedule.lr import lr_at


def lr(shape, warmup=100, decay=None, floor=0.1):
    return LrConfig(shape, 2.0, warmup, decay, floor)


TABLE = [
    # shape, decay tokens, floor, tokens in phase -> learning rate; peak 2, warmup 100, phase 1100
    ("constant", None, 1.0, 0, 0.0),
    ("constant", None, 1.0, 50, 1.0),
    ("constant", None, 1.0, 99, 1.98),
    ("constant", None, 1.0, 100, 2.0),
    ("constant", None, 1.0, 1100, 2.0),
    ("constant", None, 1.0, 5000, 2.0),
    ("linear", None, 0.1, 99, 1.98),
    ("linear", None, 0.1, 100, 2.0),
    ("linear", None, 0.1, 600, 1.1),
    ("linear", None, 0.1, 1100, 0.2),
    ("linear", None, 0.1, 2000, 0.2),
    ("cosine", None, 0.0, 100, 2.0),
    ("cosine", None, 0.0, 350, 1.0 + math.sqrt(0.5)),
    ("cosine", None, 0.0, 600, 1.0),
    ("cosine", None, 0.0, 1100, 0.0),
    ("one_minus_sqrt", None, 0.0, 100, 2.0),
    ("one_minus_sqrt", None, 0.0, 350, 1.0),
    ("one_minus_sqrt", None, 0.5, 350, 1.5),
    ("one_minus_sqrt", None, 0.5, 1100, 1.0),
    ("one_minus_sqrt", None, 0.5, 9999, 1.0),
    ("warmup_stable_decay", 400, 0.1, 100, 2.0),
    ("warmup_stable_decay", 400, 0.1, 699, 2.0),
    ("warmup_stable_decay", 400, 0.1, 700, 2.0),
    ("warmup_stable_decay", 400, 0.0, 800, 1.0),
    ("warmup_stable_decay", 400, 0.1, 1100, 0.2),
    ("warmup_stable_decay", 400, 0.1, 1101, 0.2),
]


@pytest.mark.parametrize(("shape", "decay", "floor", "tokens", "expected"), TABLE)
def test_learning_rate_at_borders(shape, decay, floor, tokens, expected):
    assert lr_at(lr(shape, decay=decay, floor=floor), 1100, tokens) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_without_warmup_the_first_step_has_the_peak():
    assert lr_at(lr("one_minus_sqrt", warmup=0), 1000, 0) == 2.0


def test_a_warmup_as_long_as_the_phase_ends_at_the_peak():
    assert lr_at(lr("linear", warmup=1000), 1000, 999) == pytest.approx(1.998)
    assert lr_at(lr("linear", warmup=1000), 1000, 1000) == 2.0


def test_published_anneal_ends_at_a_thousandth():
    anneal = LrConfig("one_minus_sqrt", 3e-4, 0, None, 0.001)
    assert lr_at(anneal, 50 * 10**9, 50 * 10**9) == pytest.approx(3e-7)
