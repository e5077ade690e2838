"""``padless evaluate``: what it understands, and which checkpoints it takes."""

import io

import pytest
from rich.console import Console

from padless.cli import main
from padless.errors import CheckpointError, ConfigError
from padless.merge.command import Row, print_rows
from padless.merge.evaluate import Score
from padless.merge.evaluate_command import EvaluateRequest, parse


def test_the_words_of_a_command_line(tmp_path):
    request = parse(["a.pt", "run=runs/b", "eval.max_blocks=3", "data.streams.main.local=x"])
    assert request == EvaluateRequest(("a.pt",), "runs/b", {"eval.max_blocks": "3", "data.streams.main.local": "x"})


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "nothing is named"), (["rum=a"], "rum=a.*did you mean run"), (["eval.max_blocks=3"], "nothing is named")],
)
def test_what_is_not_understood_is_named(words, said):
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        parse(words)


def test_all_of_a_run_and_single_ones_are_taken_once_each(save, tmp_path):
    first, second = save(1, clock=1_000), save(2, clock=2_000)
    other = save(3, run="other")
    request = EvaluateRequest((str(other), str(second)), str(tmp_path / "run"))
    assert request.paths() == [other, second, first]


def test_a_run_without_checkpoints_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing-here has no whole checkpoint"):
        EvaluateRequest(run=str(tmp_path / "nothing-here")).paths()


def test_a_setting_that_is_not_there_is_refused_before_data_is_opened(save, capsys):
    assert main(["evaluate", str(save(1)), "eval.max_block=3"]) == 2
    assert "did you mean eval.max_blocks" in capsys.readouterr().err


def test_the_table_has_no_shares_where_there_is_no_mean():
    out = io.StringIO()
    rows = [Row("a.pt", 1_000, None, Score(2.0, 0.5, {})), Row("b.pt", 2_000, None, Score(1.5, 0.6, {}))]
    print_rows(rows, Console(file=out, width=80), "validation")
    assert "share" not in out.getvalue()
    assert "1.5000*" in out.getvalue()
