"""``padless diff`` on two real runs."""

import contextlib
import io
import json

import pytest
from runs import overrides, run

from padless.diff.command import diff_command


@pytest.mark.slow
@pytest.mark.composer
def test_two_runs_with_other_seeds_part_at_their_first_step_and_not_in_their_blocks(tmp_path):
    for name, seed in (("a", 17), ("b", 18)):
        run(overrides(tmp_path, **{"run.name": name, "run.seed": seed, "run.stop_after_tokens": 4_000}))
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
