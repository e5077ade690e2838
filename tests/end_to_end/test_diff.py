"""``padless diff`` on two real runs."""

import contextlib
import io
import json

import pytest
from here import run_here
from runs import overrides

from padless.diff.command import diff_command


@pytest.mark.slow
@pytest.mark.composer
def test_two_runs_with_other_seeds_part_at_their_first_step_and_not_in_their_blocks(tmp_path):
    for name, seed in (("a", 17), ("b", 18)):
        run_here(overrides(tmp_path, **{"run.name": name, "run.seed": seed, "run.stop_after_tokens": 4_000}))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        diff_command([str(tmp_path / "a"), str(tmp_path / "b"), f"out={tmp_path / 'diff.png'}"], True)
    found = json.loads(out.getvalue())
    changed = {entry["key"]: (entry["a"], entry["b"], entry["changes_results"]) for entry in found["settings"]}
    assert changed == {"run.seed": (17, 18, True), "run.name": ("a", "b", False)}
    assert not [fact for fact in found["provenance"] if fact["differs"]]
    assert found["losses"]["losses"]["same_steps"] == 0
    assert found["losses"]["blocks"]["differs_at_tokens"] is None
    assert found["losses"]["a"]["tokens"] == found["losses"]["b"]["tokens"] >= 4_000
    assert found["unread_lines"] == {"a": 0, "b": 0}
    assert (tmp_path / "diff.png").stat().st_size > 10_000


def clock_of(checkpoint):
    return json.loads(checkpoint.with_suffix(".json").read_text())["clock_tokens"]


@pytest.mark.slow
@pytest.mark.composer
def test_a_branch_at_another_rate_parts_from_its_parent_at_its_second_step(tmp_path, capsys):
    parent = {"run.name": "a", "run.keep_newest_checkpoints": "null"}
    run_here(overrides(tmp_path, **parent, **{"run.stop_after_tokens": 4_000}))
    source = max((tmp_path / "a" / "checkpoints" / "short").glob("*tok.pt"), key=clock_of)
    run_here(overrides(tmp_path, **parent, **{"run.stop_after_tokens": 8_000}))
    keep = {"start": "source", "start.source": source, "start.keep": "[weights,optimizer,clock]"}
    new = {"run.name": "b", "run.stop_after_tokens": 8_000, "phases.short.lr.peak": "1e-4"}
    run_here(overrides(tmp_path, **keep, **new))
    diff_command([str(tmp_path / "a"), str(tmp_path / "b")], True)
    found = json.loads(capsys.readouterr().out)
    clock, losses = found["losses"]["from_tokens"], found["losses"]["losses"]
    assert found["branches"] == {"a": None, "b": [clock, str(source)]}
    assert clock == clock_of(source) >= 4_000
    assert losses["same_steps"] == 1, "the same weights on the same blocks"
    assert losses["differs_at_tokens"] > losses["same_until_tokens"] > clock
    assert found["losses"]["blocks"]["differs_at_tokens"] is None
    assert found["losses"]["common_steps"] >= 2
