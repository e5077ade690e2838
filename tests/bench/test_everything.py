"""All benches in one command: what was held and missed is said, a failure does not stop the others."""

import importlib
import json

import pytest

from padless.bench import step
from padless.bench.command import SPEED_BENCHES, settings_of
from padless.bench.everything import (
    BENCHES,
    Outcome,
    as_markdown,
    as_plain,
    bench,
    eta_text,
    last_seconds,
    require_whole,
    verdict,
)
from padless.bench.sides import STEP
from padless.bench.step import parse
from padless.errors import ConfigError, TrainingError


def ratio(name, holds, target=2.0):
    values = {"min": 1.0, "median": 1.5, "max": 2.5}
    return {"name": name, "target": target, "holds": holds, "is_lower_better": False, **values}


def outcomes():
    found = {"ratios": [ratio("a", True), ratio("b", False), ratio("c", None, None)]}
    return [Outcome("step", 61.2, found), Outcome("packing", 5.0, None)]


def test_every_bench_of_the_command_line_is_run_but_those_that_need_a_gpu():
    assert set(BENCHES) == set(SPEED_BENCHES) - {"all", "gpu"}


def test_quick_settings_are_settings_of_their_bench():
    for name, settings in BENCHES.items():
        defaults = importlib.import_module(SPEED_BENCHES[name]).DEFAULTS
        assert settings_of(list(settings), defaults) != defaults
    assert len(parse([*BENCHES["step"]], step.DEFAULTS, STEP, ("sparse", "dense")).settings) == 1


def test_targets_missed_and_benches_failed_are_said_plainly():
    first, packing = outcomes()
    assert verdict(first) == "step took 0:01:01: 1 of 2 targets held; MISSED: b"
    assert verdict(packing) == "packing took 0:00:05: FAILED"
    text = as_markdown(as_plain(outcomes(), is_quick=True))
    assert "| step | a | 1 | 1.5 | 2.5 | >= 2 | yes |" in text
    assert "| step | b | 1 | 1.5 | 2.5 | >= 2 | **no** |" in text
    assert "| c |" not in text
    for words in ("1 of 2 targets held.", "Failed: packing.", "Quick: too few repeats for a measurement."):
        assert words in text


def test_a_failed_bench_is_an_error_at_the_end(tmp_path):
    require_whole(outcomes()[:1], tmp_path)
    with pytest.raises(TrainingError, match=r"failed: packing"):
        require_whole(outcomes(), tmp_path)


def test_the_time_left_is_that_of_the_last_run_of_the_same_kind(tmp_path):
    path = tmp_path / "all.json"
    assert last_seconds(path, False) == {}
    assert eta_text(["step", "packing"], {}, []) == ""
    path.write_text(json.dumps(as_plain(outcomes(), is_quick=False)))
    assert last_seconds(path, True) == {}
    assert last_seconds(path, False) == {"step": 61.2, "packing": 5.0}
    assert eta_text(["step", "packing"], last_seconds(path, False), []) == ", ETA 0:01:06"
    assert eta_text(["packing", "loader"], {}, outcomes()[:1]) == ", ETA 0:02:02"
    path.write_text("{")
    assert last_seconds(path, False) == {}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("benches=step,step", "benches=step,step names one twice"),
        ("benches=chaos", "benches=chaos is not one of step"),
        ("quick=1", "quick=1 is not one of true, false"),
    ],
)
def test_a_wrong_setting_is_refused(argument, message):
    with pytest.raises(ConfigError, match=message):
        bench([argument], as_json=False)


@pytest.mark.slow
def test_a_quick_run_leaves_a_summary(tmp_path, capsys):
    bench(["benches=attention", "quick=true", f"folder={tmp_path}"], as_json=True)
    plain = json.loads(capsys.readouterr().out)
    assert plain == json.loads((tmp_path / "all.json").read_text())
    assert (plain["quick"], [each["bench"] for each in plain["benches"]]) == (True, ["attention"])
    assert (tmp_path / "attention" / "attention.png").is_file()
    assert (tmp_path / "all.md").read_text().startswith("### all")
