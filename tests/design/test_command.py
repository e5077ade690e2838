"""``padless design``: table, JSON and picture."""

import json

import matplotlib.image
import numpy as np
import pytest

from padless.cli import main
from padless.design import picture
from padless.design.measure import Measured, Timing
from padless.design.search import Workload, search, workloads_of
from padless.design.shapes import Grid, published_shapes, shape_of
from padless.errors import ConfigError
from padless.plan.devices import GPUS

FEW = ["basket=t4,h100", "layers=18-26"]


def run(capsys, *words):
    code = main(["design", *FEW, *words])
    return code, capsys.readouterr()


def test_no_figure_is_cut_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, printed = run(capsys, "parameters=149M,395M", "tiles=false")
    lines = printed.out.splitlines()
    heading = "shape parameters time at 512 at 8192 GB SM use"
    assert sum(" ".join(line.split()) == heading for line in lines) == 2
    assert "…" not in printed.out


def test_the_front_is_printed_with_the_published_shape_and_where_it_stands(capsys):
    code, printed = run(capsys, "top=3")
    assert code == 0
    assert "149M parameters: front of predicted time and depth" in printed.out
    assert "22x768x1152" in printed.out
    assert "ModernBERT-base" in printed.out
    assert "among shapes of at least its depth" in printed.out
    assert "of any depth: " in printed.out
    assert "within 5% of the front at their depth: " in printed.out


def test_the_front_with_memory_is_printed_where_asked_for(capsys):
    code, printed = run(capsys, "front=time,memory", "tiles=false")
    assert code == 0
    assert "149M parameters: front of predicted time, depth and memory" in printed.out
    assert "; with memory: " in printed.out
    _, plain = run(capsys, "tiles=false", "--json")
    (found,) = json.loads(plain.out)["searches"]
    assert len(found["memory_front"]) > len(found["front"])


def test_json_is_one_object_with_front_and_published(capsys):
    code, printed = run(capsys, "parameters=149M,395M", "--json")
    assert code == 0
    plain = json.loads(printed.out)
    assert plain["ok"]
    assert plain["basket"] == ["t4", "h100"]
    assert plain["workloads"] == ["1 x 512", "128 x 512", "1 x 8192", "8 x 8192"]
    first = plain["searches"][0]
    assert first["parameters"] == 149_000_000
    assert first["published"][0]["shape"] == "22x768x1152"
    assert first["published"][0]["parameters"] == 149_655_232
    assert first["published"][0]["whole_tiles"] == ["attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"]
    assert set(first["front"][0]["seconds"]) == {"t4", "h100"}
    assert first["measured"] is None
    assert plain["searches"][1]["published"][0]["shape"] == "28x1024x2624"
    assert "395M parameters: front" in printed.err, "people read it there"


def test_a_mistake_is_the_users_to_mend(capsys):
    code, printed = run(capsys, "parameters=1K", "--json")
    assert code == 2
    assert json.loads(printed.out)["ok"] is False
    assert "is the nearest that works" in printed.err


def test_a_budget_without_a_published_shape_has_a_front_all_the_same(capsys):
    code, printed = run(capsys, "parameters=250M")
    assert code == 0
    assert "ModernBERT" not in printed.out


def has_colour(drawn, colour):
    wanted = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return bool((np.abs(drawn[..., :3] - wanted) < 0.02).all(axis=-1).any())


def test_the_picture_has_the_front_and_the_published_shape(capsys, tmp_path):
    out = tmp_path / "a.png"
    code, printed = run(capsys, f"out={out}")
    assert code == 0
    assert f"drawn: {out}" in printed.out.replace("\n", "")
    drawn = matplotlib.image.imread(out)
    assert has_colour(drawn, "#1f4e8c")
    assert has_colour(drawn, "#c0392b")
    assert not has_colour(drawn, "#117864"), "nothing was timed"


@pytest.fixture
def found():
    grid = Grid(18, 26, 1.0, 4.0, True, None, 50_368)
    return search(grid, 149_000_000, 0.02, [GPUS["t4"]], workloads_of(8192, 512, 65_536))


def test_timed_shapes_are_drawn_beside_the_search(found, tmp_path):
    models = [published_shapes()["ModernBERT-base"], shape_of(18, 768, 1600, 50_368)]
    timings = [Timing(model, (1.0, 2.0), (1.5, 2.5 + number)) for number, model in enumerate(models)]
    measured = Measured("one CPU core", {}, (Workload(1, 512), Workload(1, 8192)), timings, {"all": 1.0})
    picture.draw([found], [measured], "t4", tmp_path / "a.png")
    drawn = matplotlib.image.imread(tmp_path / "a.png")
    assert has_colour(drawn, "#117864")
    picture.draw([found, found], [measured, None], "t4", tmp_path / "b.png")
    assert matplotlib.image.imread(tmp_path / "b.png").shape[0] > drawn.shape[0]


def test_a_picture_that_cannot_be_written_says_so(found, tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(ConfigError, match=r"out=.*a.png cannot be written"):
        picture.draw([found], [None], "t4", tmp_path / "a.png")
