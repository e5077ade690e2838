"""A profile on demand: the steps that were asked for, once, and nothing computed otherwise."""

import json

import pytest
import torch

from padless.train.callbacks.profile import ProfileSteps

pytestmark = pytest.mark.composer


def test_the_steps_asked_for_are_recorded_once_and_results_stay(make_phase, tmp_path):
    profiled, plain, said = make_phase(), make_phase(), []
    profiled.trainer([ProfileSteps(tmp_path, 2, 3, said.append)], 5_000).fit()
    plain.trainer([], 5_000).fit()
    assert sorted(path.name for path in (tmp_path / "profile").iterdir()) == ["steps-3-5.json", "steps-3-5.txt"]
    names = {
        event.get("name") for event in json.loads((tmp_path / "profile" / "steps-3-5.json").read_text())["traceEvents"]
    }
    assert {"aten::addmm_", "aten::gelu"} & names
    assert "Self CPU" in (tmp_path / "profile" / "steps-3-5.txt").read_text()
    assert said == [f"profile of 3 steps: {tmp_path / 'profile' / 'steps-3-5'}.json (Perfetto), .txt (top operators)"]
    for name, weight in profiled.model.state_dict().items():
        assert torch.equal(weight, plain.model.state_dict()[name]), name


def test_a_phase_that_ends_in_the_middle_writes_what_there_is(make_phase, tmp_path):
    said = []
    make_phase().trainer([ProfileSteps(tmp_path, 1, 50, said.append)], 2_000).fit()
    assert (tmp_path / "profile" / "steps-2-4.json").is_file()
    assert len(said) == 1
