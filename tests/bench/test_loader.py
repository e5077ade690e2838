"""``padless bench loader``: the text loader that it compares with, and that the bench runs to its end."""

import json

import numpy as np
import pytest

from padless.bench.loader import ALONE, TEXT, WORKER, bench, mask_padded, pad
from padless.errors import ConfigError


def test_rows_are_padded_to_the_longest():
    assert pad([[7], [8, 9, 7]], 3).tolist() == [[7, 3, 3], [8, 9, 7]]


def test_text_loader_masks_30_percent_and_no_special_token():
    original = np.random.default_rng(1).integers(0, 100, (50, 1000))
    ids = original.copy()
    labels = mask_padded(ids, [0, 1, 2, 3], 3, 100, np.random.default_rng(0))
    chosen = labels != -100
    assert chosen.sum() / (original > 3).sum() == pytest.approx(0.3, abs=0.01)
    assert (original[chosen] > 3).all()
    assert (labels[chosen] == original[chosen]).all()
    assert (ids[~chosen] == original[~chosen]).all()
    assert (ids[chosen] == 3).mean() == pytest.approx(0.8, abs=0.02)


@pytest.mark.slow
def test_bench_writes_figures_of_all_three_loaders(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("padless.bench.loader.TEXT_MEGABYTES", 1)
    arguments = ["blocks=16", "text_batches=1", "max_seq_len=512", "vocab_size=512", "repeats=1", f"folder={tmp_path}"]
    bench(arguments, as_json=True)
    plain = json.loads(capsys.readouterr().out)
    assert plain == json.loads((tmp_path / "loader.json").read_text())
    assert (tmp_path / "loader.png").stat().st_size > 0
    assert {figure["who"] for figure in plain["figures"]} == {ALONE, WORKER, TEXT}
    assert all(figure["median"] > 0 for figure in plain["figures"])
    assert [ratio["target"] for ratio in plain["ratios"]] == [30.0, 40.0, 0.3]


def test_a_setting_that_measures_nothing_is_refused():
    with pytest.raises(ConfigError, match="blocks=0 is less than 1"):
        bench(["blocks=0"], as_json=False)
