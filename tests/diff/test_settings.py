"""Settings that differ are named once each, those that change results apart."""

from padless.config.compose import compose
from padless.diff.settings import SettingDifference, different_settings


def changes(*overrides):
    return different_settings(compose(["recipe=smoke"]), compose(["recipe=smoke", *overrides]))


def test_equal_configurations_have_no_difference():
    assert changes() == []


def test_a_setting_that_changes_results_is_marked_and_comes_first():
    found = changes("run.name=other", "run.seed=99", "hardware.num_threads=3")
    assert found == [
        SettingDifference("run.seed", 17, 99, changes_results=True),
        SettingDifference("run.name", "smoke", "other", changes_results=False),
        SettingDifference("hardware.num_threads", None, 3, changes_results=False),
    ]


def test_intervals_and_paths_do_not_change_results():
    found = changes("phases.short.save_every_tokens=7K", "data.streams.code.local=/elsewhere")
    assert [(entry.key, entry.changes_results) for entry in found] == [
        ("data.streams.code.local", False),
        ("phases.short.save_every_tokens", False),
    ]


def test_a_phase_that_one_run_lacks_is_one_difference():
    a = compose(["recipe=smoke"])
    b = compose(["recipe=smoke", "~phases.anneal", "phase_order=[short,context]"])
    found = {entry.key: entry for entry in different_settings(a, b)}
    assert set(found) == {"phase_order", "phases.anneal"}
    assert found["phases.anneal"].changes_results
    assert found["phases.anneal"].b is None
