"""The picture of two runs: it is drawn, it holds both curves and the difference, it is whole or not there."""

from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from padless.diff.losses import compare_losses
from padless.diff.plot import phase_spans, plot_difference
from padless.diff.read import read_run
from padless.errors import ConfigError

from .conftest import BRANCH, eval_line, step_line


def curve(phases, offset=0.0):
    lines = [eval_line(0, 7.5 + offset)]
    for number in range(1, 61):
        phase = next(name for name, last in phases if number <= last)
        lines.append(step_line(number, 7.5 - 0.03 * number + 0.1 * (number % 3) + offset * number / 60, phase))
    return [*lines, eval_line(60 * 512, 5.6 + offset)]


@pytest.fixture
def pair(make_run):
    a = make_run("a", metrics=curve([("short", 30), ("context", 60)]))
    b = make_run("b", metrics=curve([("short", 40), ("context", 60)], offset=0.2))
    return short_name(read_run(str(a))), short_name(read_run(str(b)))


def short_name(run):
    """Name the run by its folder's last part, so that the legend is as wide wherever the tests write."""
    return replace(run, folder=Path(run.folder.name))


def has_colour(picture, colour):
    wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return bool((np.abs(picture[..., :3] - wanted) < 0.02).all(axis=-1).any())


def test_both_runs_their_difference_and_the_phases_are_drawn(pair, tmp_path):
    out = tmp_path / "diff.png"
    plot_difference(*pair, compare_losses(*pair), out)
    picture = matplotlib.image.imread(out)
    assert picture.shape[:2] == (910, 1170)
    for colour in ("#1f4e8c", "#c0392b", "#5b3f8c", "#2d7a46", "#dfe9f5", "#f6ecd9"):
        assert has_colour(picture, colour), colour
    assert not has_colour(picture, "#e2f0e0"), "there is no third phase"


def test_phases_span_what_was_trained_in_them(pair):
    assert phase_spans(pair[0]) == [("short", 0, 15360), ("context", 15360, 30720)]
    assert phase_spans(pair[1]) == [("short", 0, 20480), ("context", 20480, 30720)]


def test_the_picture_of_a_branch_has_the_whole_parent_and_marks_where_the_branch_begins(pair, make_run, tmp_path):
    lineage = [{**BRANCH, "clock_tokens": 12_800}]
    lines = [line for line in curve([("short", 30), ("context", 40), ("anneal", 60)]) if line["tokens"] > 12_800]
    b = short_name(read_run(str(make_run("c", lineage=lineage, metrics=[*lines, step_line(61, 5.0, "anneal")]))))
    assert phase_spans(b)[0] == ("short", 12_800, 15_360)
    for number, (first, second) in enumerate(((pair[0], b), (b, pair[0]))):
        out = tmp_path / f"{number}.png"
        plot_difference(first, second, compare_losses(first, second), out)
        picture = matplotlib.image.imread(out)
        for colour in ("#1f4e8c", "#c0392b", "#5b3f8c", "#dfe9f5"):
            assert has_colour(picture, colour), colour
        left = picture[:, 75:400]
        assert has_colour(left, "#1f4e8c" if first is pair[0] else "#c0392b"), "the parent from its beginning"
        assert not has_colour(left, "#c0392b" if first is pair[0] else "#1f4e8c"), "the branch not before it begins"


def test_runs_without_a_common_clock_or_a_finite_loss_are_drawn(make_run, tmp_path):
    a = read_run(str(make_run("c", metrics=[step_line(1, None)])))
    b = read_run(str(make_run("d", metrics=[step_line(1, 2.0, tokens=7)])))
    plot_difference(a, b, compare_losses(a, b), tmp_path / "diff.png")
    assert matplotlib.image.imread(tmp_path / "diff.png").size


def test_a_place_that_cannot_be_written_is_named(pair, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"out=.*file/diff.png cannot be written: "):
        plot_difference(*pair, compare_losses(*pair), tmp_path / "file" / "diff.png")
