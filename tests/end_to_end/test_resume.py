"""Killed at any moment and started again, a run is the run that nobody killed: same blocks, losses, weights."""

import pytest
import torch
from here import run_here
from runs import kill_at_step, metrics, overrides, run, steps

from padless.checkpoint import load_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.composer]


def final_weights(run_folder):
    newest = max(run_folder.glob("checkpoints/*/*.pt"), key=lambda path: load_checkpoint(path).clock_tokens)
    return newest.name, load_checkpoint(newest)


def test_sigkill_in_each_phase_and_mid_ramp_then_the_same_command_is_bit_equal(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_here(overrides(whole))
    expected = metrics(whole / "smoke")
    done = steps(whole / "smoke")
    ramp = next(line["step"] for line in done if line["batch_blocks"] != done[0]["batch_blocks"])
    first_of = {line["phase"]: line["step"] for line in reversed(done)}
    last_of = {line["phase"]: line["step"] for line in done}
    assert list(first_of) == ["anneal", "context", "short"]
    assert first_of["short"] < ramp < last_of["short"]
    kills = [max(1, ramp - 2), *((first_of[name] + last_of[name]) // 2 for name in ("context", "anneal"))]
    for step in kills:
        kill_at_step(overrides(killed), killed / "smoke", step)
    output = run(overrides(killed))
    assert "resumed phase" in output
    assert metrics(killed / "smoke") == expected
    expected_name, expected_state = final_weights(whole / "smoke")
    name, state = final_weights(killed / "smoke")
    assert name == expected_name
    for key, tensor in expected_state.model.items():
        assert torch.equal(tensor, state.model[key]), key
    for key, moments in expected_state.optimizer["moments"].items():
        assert torch.equal(moments["exp_avg_sq"], state.optimizer["moments"][key]["exp_avg_sq"]), key
    again = run_here(overrides(killed))
    assert "exported" in again
    assert metrics(killed / "smoke") == expected
