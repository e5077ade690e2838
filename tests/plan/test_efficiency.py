"""The efficiency model against the published hours, and its work against the counted one."""

from dataclasses import fields

import pytest

from padless.plan.calibration import ETTIN, MODERNBERT, fit_shares, largest_error, main, preset, relative_errors
from padless.plan.devices import GPUS
from padless.plan.efficiency import FITTED, FREE_CONSTANTS, LARGEST_ERROR, MATRIX_SHARE, seconds_a_token, work_a_token
from padless.plan.flops import step_flops
from padless.plan.lengths import Segments, assume_segments


def test_six_published_figures_are_met_within_what_is_stated():
    assert len(MODERNBERT) == 6
    assert LARGEST_ERROR / 2 < largest_error() <= LARGEST_ERROR < 0.15


def test_the_constants_are_those_of_the_fit():
    fitted = fit_shares()
    assert fitted.attention == pytest.approx(FITTED.attention, abs=1e-4)
    assert fitted.memory == pytest.approx(FITTED.memory, abs=1e-4)
    assert fitted.matrix == FITTED.matrix == MATRIX_SHARE
    assert len(fields(FITTED)) - 1 == FREE_CONSTANTS  # all but the one that others measured


def test_a_fit_to_one_model_predicts_the_other_within_15_percent():
    base, large = MODERNBERT[:3], MODERNBERT[3:]
    for fitted, other in ((base, large), (large, base)):
        assert max(map(abs, relative_errors(other, fit_shares(fitted)))) < 0.15


def test_the_fit_is_the_least_of_squares():
    def squares(attention, memory):
        shares = type(FITTED)(MATRIX_SHARE, attention, memory)
        return sum(error**2 for error in relative_errors(MODERNBERT, shares))

    best = fit_shares()
    least = squares(best.attention, best.memory)
    for factor in (0.98, 1.02):
        assert squares(best.attention * factor, best.memory) > least
        assert squares(best.attention, best.memory * factor) > least


def test_runs_that_took_no_part_in_the_fit_are_met_as_the_docs_say():
    errors = dict(zip((each.model for each in ETTIN), relative_errors(ETTIN), strict=True))
    assert max(abs(errors[name]) for name in ("68m", "base", "400m", "1b")) < 0.17
    assert -0.65 < errors["17m"] < errors["32m"] < -0.4  # bound by what is not in the model: launches and loading


def test_refitting_prints_every_residual(capsys):
    main()
    out = capsys.readouterr().out
    assert out.count("published,") == len(MODERNBERT) + len(ETTIN)
    assert f"attention {FITTED.attention}, memory {FITTED.memory} (fitted)" in out


@pytest.mark.parametrize("name", ["base", "17m"])
def test_work_a_token_is_that_of_a_step(name):
    model, lengths = preset(name), (1000, 24, 500)
    work = work_a_token(model, Segments(lengths, (1.0, 1.0, 1.0), "here"), 0.25)
    assert work.flops * sum(lengths) == pytest.approx(step_flops(model, lengths, 381), rel=1e-12)
    assert work.attention_flops > 0


def test_more_of_anything_takes_longer():
    model, h100 = preset("base"), GPUS["h100"]
    short, long = (work_a_token(model, assume_segments(cap), 0.3) for cap in (1024, 8192))
    assert seconds_a_token(long, h100) > seconds_a_token(short, h100)
    assert seconds_a_token(short, GPUS["a100"]) > seconds_a_token(short, h100) > seconds_a_token(short, GPUS["h200"])
    assert work_a_token(model, assume_segments(1024), 0.3, is_fp32=True).traffic_bytes > short.traffic_bytes
