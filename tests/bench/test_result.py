"""What a bench leaves behind says what was measured, and whether the targets hold."""

import json

import pytest

from padless.bench.result import BenchResult, Figure, Ratio, as_markdown, number_text, publish


def result():
    figures = [
        Figure("web", "padless", "tokens/s", (9_000.0, 10_000.0, 12_500.0)),
        Figure("web", "padded", "tokens/s", (2_000.0, 2_100.0, 2_050.0)),
        Figure("web", "padless", "GB", (1.0, 1.25)),
    ]
    ratios = [Ratio("faster", (4.0, 5.0, 6.0), 4.5), Ratio("memory", (1.2, 1.4), 1.25, is_lower_better=True)]
    return BenchResult("small", figures, [*ratios, Ratio("other", (1.0,))], {"seeds": "0,1"}, ["A note."])


def test_medians_decide_whether_targets_hold():
    faster, memory, other = result().ratios
    assert (faster.holds, memory.holds, other.holds) == (True, False, None)


def test_the_table_shows_least_median_most_and_what_was_asked():
    text = as_markdown(result())
    for line in (
        "| web | padless | 9,000 | 10,000 | 12,500 | tokens/s |",
        "| faster | 4 | 5 | 6 | >= 4.5 | yes |",
        "| memory | 1.2 | 1.3 | 1.4 | <= 1.25 | **no** |",
        "| other | 1 | 1 | 1 |  |  |",
        "A note.",
    ):
        assert line in text.splitlines()
    assert "seeds 0,1." in text


@pytest.mark.parametrize(("value", "text"), [(0.1234, "0.123"), (12.34, "12.3"), (1234.5, "1,234"), (0, "0")])
def test_figures_have_three_digits(value, text):
    assert number_text(value) == text


def test_table_json_and_picture_are_written(tmp_path, capsys):
    publish(result(), tmp_path / "new", as_json=True)
    plain = json.loads(capsys.readouterr().out)
    assert plain == json.loads((tmp_path / "new" / "small.json").read_text())
    assert (plain["figures"][0]["median"], plain["ratios"][1]["holds"]) == (10_000.0, False)
    assert (tmp_path / "new" / "small.md").read_text() == as_markdown(result())
    assert (tmp_path / "new" / "small.png").read_bytes()[:4] == b"\x89PNG"


def test_a_result_without_figures_has_no_picture(tmp_path):
    publish(BenchResult("none"), tmp_path, as_json=False)
    assert not (tmp_path / "none.png").exists()
