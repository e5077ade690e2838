"""Whether a source is annealed: from a run's files, an export's facts, a published name; otherwise it is not known."""

import json

import pytest

from padless.checkpoint.sidecar import FORMAT_VERSION
from padless.config.compose import compose
from padless.config.load import to_yaml
from padless.export.known_models import hub_source
from padless.export.source import ResolvedSource
from padless.schedule.phases import plan_phases
from padless.train.source_schedule import SourceSchedule, schedule_line, schedule_of

DEMO = compose(["recipe=demo"])
SHORT, CONTEXT, ANNEAL = plan_phases(DEMO)


@pytest.fixture
def run_folder(tmp_path):
    """The files of a finished demo that tell of its schedule."""
    (tmp_path / "config.yaml").write_text(to_yaml(DEMO))
    for plan in (SHORT, CONTEXT, ANNEAL):
        write_checkpoint(tmp_path, plan.name, plan.actual_end_tokens)
    return tmp_path


def write_checkpoint(folder, phase, clock_tokens):
    path = folder / "checkpoints" / phase / f"{phase}-{clock_tokens:_}tok.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    facts = {"format_version": FORMAT_VERSION, "file": path.name, "size_bytes": 7, "sha256": "0" * 64, "phase": phase,
             "clock_tokens": clock_tokens, "step": 1, "config_hash": "x"}  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(facts))
    return path


def newest(run_folder, phase):
    return max((run_folder / "checkpoints" / phase).glob("*.pt"))


def test_the_end_of_an_anneal_is_and_names_the_checkpoint_before_it(run_folder):
    path = newest(run_folder, "anneal")
    schedule = schedule_of(ResolvedSource(str(path), path))
    assert schedule == SourceSchedule(pytest.approx(0.001), "anneal", str(newest(run_folder, "context")))
    assert schedule.is_annealed
    assert schedule_line(schedule, keeps_moments=False) == (
        "the source is annealed: its learning rate came down to 0.001 of its peak in phase 'anneal'; re-warming it "
        "loses what that gained, and a checkpoint from before the decay continues better: "
        f"start.source={newest(run_folder, 'context')}"
    )
    assert "raising it again loses" in schedule_line(schedule, keeps_moments=True)


def test_the_end_of_a_stable_phase_is_not_and_nothing_is_said(run_folder):
    path = newest(run_folder, "context")
    schedule = schedule_of(ResolvedSource(str(path), path))
    assert (schedule.lr_share, schedule.is_annealed) == (1.0, False)
    assert schedule_line(schedule, keeps_moments=False) is None


def test_an_export_says_it_itself(run_folder):
    folder = run_folder / "hf"
    folder.mkdir()
    (folder / "padless.json").write_text('{"clock_tokens": 5, "phase": "anneal", "lr_share": 0.25}')
    assert schedule_of(ResolvedSource("hf", folder)) == SourceSchedule(
        0.25, "anneal", str(newest(run_folder, "context"))
    )
    (folder / "padless.json").write_text('{"clock_tokens": 5, "phase": "anneal"}')  # of an earlier version
    assert schedule_of(ResolvedSource("hf", folder)) == SourceSchedule(None)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("modernbert-base@stable", SourceSchedule(1.0)),
        ("modernbert-base@extended", SourceSchedule(1.0)),
        ("modernbert-base", SourceSchedule(0.0, None, "modernbert-base@extended")),
        ("answerdotai/ModernBERT-base", SourceSchedule(0.0, None, "modernbert-base@extended")),
        ("ettin-17m", SourceSchedule(0.0, None, None)),
        ("someone/else", SourceSchedule(None)),
    ],
)
def test_the_stage_of_a_published_model_decides(tmp_path, name, schedule):
    assert schedule_of(ResolvedSource(name, tmp_path, hub_source(name))) == schedule


def test_an_imported_folder_is_what_it_came_from(tmp_path):
    imported = {"imported_from": "modernbert-base (answerdotai/ModernBERT-base@8949b90)"}
    (tmp_path / "padless.json").write_text(json.dumps(imported))
    assert schedule_of(ResolvedSource("x", tmp_path)) == SourceSchedule(0.0, None, "modernbert-base@extended")
    (tmp_path / "padless.json").write_text(json.dumps({"imported_from": "modernbert-base@extendde (gone)"}))
    assert schedule_of(ResolvedSource("x", tmp_path)) == SourceSchedule(None)


@pytest.mark.parametrize("facts", ["[1]", "{", '{"lr_share": "low"}', '{"lr_share": 7}'])
def test_what_is_not_known_is_said(tmp_path, facts):
    (tmp_path / "padless.json").write_text(facts)
    schedule = schedule_of(ResolvedSource("somewhere", tmp_path))
    assert schedule == SourceSchedule(None)
    assert "is not known" in schedule_line(schedule, keeps_moments=False)
    (tmp_path / "lone.pt").write_bytes(b"x")
    assert schedule_of(ResolvedSource("lone.pt", tmp_path / "lone.pt")) == SourceSchedule(None)
