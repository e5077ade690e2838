"""What a plan says of its own errors is what the calibration gives."""

import pytest

from padless.model.count import count_parameters
from padless.plan.calibration import ETTIN, preset, relative_errors
from padless.plan.hardware import parse_machine
from padless.plan.trust import OTHERS_ERROR, SMALL_ERROR, SMALL_PARAMETERS, model_errors, trust_line


def test_errors_on_runs_outside_the_fit_are_the_calibrations():
    errors = dict(zip((each.model for each in ETTIN), relative_errors(ETTIN), strict=True))
    small = [name for name in errors if count_parameters(preset(name)).total < SMALL_PARAMETERS]
    assert small == ["17m", "32m"]
    assert max(abs(errors[name]) for name in small) == pytest.approx(SMALL_ERROR, abs=0.005)
    assert max(abs(errors[name]) for name in set(errors) - set(small)) == pytest.approx(OTHERS_ERROR, abs=0.005)
    line = trust_line(parse_machine("8xh100"), with_lengths_of_fit=True)
    for name, words in (("1b", "(1B)"), ("400m", "(400M)"), ("68m", "(68M)"), ("32m", "(32M)"), ("17m", "(17M)")):
        assert f"{errors[name]:+.0%} {words}" in line
    assert "extrapolated" not in line


def test_a_small_model_has_the_larger_error_and_other_lengths_none():
    assert model_errors(17_000_000, True) == {"fitted": 0.02, "others": SMALL_ERROR}
    assert model_errors(149_000_000, True) == {"fitted": 0.02, "others": OTHERS_ERROR}
    assert model_errors(149_000_000, False) is None
