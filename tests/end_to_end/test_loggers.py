"""TensorBoard and wandb beside metrics.jsonl: one step axis over all phases, one wandb id over resumes."""

import sys

import pytest
from here import run_here, smoke_run
from runs import overrides, steps
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from padless.config.compose import compose
from padless.errors import ConfigError
from padless.train.loggers import build_loggers

pytestmark = [pytest.mark.slow, pytest.mark.composer]


def test_tensorboard_has_every_step_of_all_phases_on_one_axis(tmp_path_factory):
    folder = smoke_run(tmp_path_factory).folder
    values = {}
    for path in sorted((folder / "tensorboard" / "smoke").glob("events.*")):
        events = EventAccumulator(str(path)).Reload()
        if "padless/loss" in events.Tags()["scalars"]:
            values |= {event.step: event.value for event in events.Scalars("padless/loss")}
    done = steps(folder)
    assert list(values) == [line["step"] for line in done]
    assert list(values.values()) == pytest.approx([line["loss"] for line in done], rel=1e-6)


def test_wandb_works_offline_and_keeps_its_id_over_a_resume(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    more = {"loggers.wandb_project": "padless-test", "loggers.wandb_mode": "offline", "export.enabled": "false"}
    run_here(overrides(tmp_path, **more, **{"run.stop_after_tokens": "1_000"}))
    wandb_id = (tmp_path / "smoke" / "wandb_id").read_text()
    assert "resumed" in run_here(overrides(tmp_path, **more, **{"run.stop_after_tokens": "4_000"}))
    assert (tmp_path / "smoke" / "wandb_id").read_text() == wandb_id
    runs = sorted((tmp_path / "smoke" / "wandb").glob("offline-run-*"))
    assert runs
    assert {path.name.rpartition("-")[2] for path in runs} == {wandb_id}
    assert all(list(path.glob("*.wandb")) for path in runs)


def test_only_the_leader_chooses_a_wandb_id(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = compose(["recipe=smoke", "loggers.wandb_project=x", "loggers.wandb_mode=offline"])
    build_loggers(config, tmp_path, is_leader=False)
    assert not (tmp_path / "wandb_id").exists()
    build_loggers(config, tmp_path, is_leader=True)
    first = (tmp_path / "wandb_id").read_text()
    build_loggers(config, tmp_path, is_leader=True)
    assert (tmp_path / "wandb_id").read_text() == first


def test_wandb_that_is_not_installed_is_named_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = compose(["recipe=smoke", "loggers.wandb_project=x"])
    with pytest.raises(ConfigError, match=r"wandb is not installed\n.*padless\[wandb\]"):
        build_loggers(config, tmp_path, is_leader=True)
