"""``padless bench packing``: what the stand-in for online packers does, and that the bench runs to its end."""

import json

import numpy as np
import pytest

from padless.bench.packing import CASES, ONLINE, PADLESS, bench, draw_documents, measure_padless, pack_online
from padless.errors import ConfigError


def test_online_packer_puts_a_document_into_the_fullest_row_with_room():
    # two rows of 10: 6 and 7; 2 goes to the 7; 8 finds no room and closes the row of 9
    assert pack_online(np.array([6, 7, 2, 8]), 10, open_rows=2) == pytest.approx(0.9)
    # 2 goes to the 8, not to the 6; 5 closes that full row
    assert pack_online(np.array([6, 7, 2, 8, 2, 5]), 10, open_rows=2) == pytest.approx(0.95)


def test_online_packer_without_a_closed_row_wastes_nothing():
    assert pack_online(np.array([3, 4]), 10) == 1.0


def test_documents_are_web_like_and_the_same_for_a_seed():
    drawn = draw_documents(50_000, 1)
    assert drawn.min() >= 1
    assert drawn.mean() == pytest.approx(660, rel=0.03)
    assert np.array_equal(drawn, draw_documents(50_000, 1))


def test_padless_side_loses_nothing_and_says_how_full_blocks_are():
    measured = measure_padless(documents=5_000, seed=0, cap=64, block_tokens=128)
    assert measured["lost"] == 0.0
    assert 0.99 < measured["fill"] <= 1.0


@pytest.mark.slow
def test_bench_writes_figures_of_both_sides(tmp_path, capsys):
    arguments = ["documents=3000", "online_documents=500", "repeats=1", "seeds=0", f"folder={tmp_path}"]
    bench(arguments, as_json=True)
    plain = json.loads(capsys.readouterr().out)
    assert plain == json.loads((tmp_path / "packing.json").read_text())
    assert (tmp_path / "packing.png").stat().st_size > 0
    assert {figure["who"] for figure in plain["figures"]} == {PADLESS, ONLINE, "padless, cutting too"}
    lost = [ratio for ratio in plain["ratios"] if ratio["name"].endswith("share of the tokens lost")]
    assert len(lost) == len(CASES)
    assert all(ratio["holds"] for ratio in lost)


def test_a_setting_that_measures_nothing_is_refused():
    with pytest.raises(ConfigError, match="documents=0 is less than 1"):
        bench(["documents=0"], as_json=False)
