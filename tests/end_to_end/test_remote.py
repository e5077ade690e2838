"""Shards on a remote: fetched into a cache as they are needed, through phases and resumes, with the same blocks."""

import pytest
from here import refusal, run_here, smoke_run
from runs import PREPARED, metrics, overrides

pytestmark = [pytest.mark.slow, pytest.mark.composer]

STREAMS = ("general", "code", "science")


def test_a_run_on_a_remote_is_the_run_on_local_shards_also_after_a_resume(tmp_path, tmp_path_factory):
    """Phases context and anneal read the same folders: the second opens what the first has fetched, as does a rerun."""
    remote = {f"data.streams.{name}.remote": PREPARED / name for name in STREAMS}
    arguments = overrides(tmp_path, **{"export.enabled": "false", "data.prepare_bundled": "false"}, **remote)
    arguments = [item for item in arguments if ".local=" not in item]
    arguments += [f"data.streams.{name}.local={tmp_path / 'cache' / name}" for name in STREAMS]
    assert "stopped at" in run_here([*arguments, "run.stop_after_tokens=85_000"])
    for name in STREAMS:
        assert (tmp_path / "cache" / name / "manifest.json").exists()
        assert list((tmp_path / "cache" / name / "blocks" / "256" / "train").glob("*.mds"))
    output = run_here(arguments)
    assert "resumed phase anneal at" in output
    lines = metrics(tmp_path / "smoke")
    at_stop = [line for line in lines if line["tokens"] == 86_016]
    assert ["eval_loss" in line for line in at_stop] == [False, True]
    lines.remove(at_stop[1])  # a run that stops evaluates there
    assert lines == metrics(smoke_run(tmp_path_factory).folder)


def test_a_remote_that_is_not_there_is_named(tmp_path):
    arguments = overrides(tmp_path, **{"data.prepare_bundled": "false"})
    arguments += [f"data.streams.code.local={tmp_path / 'cache'}", f"data.streams.code.remote={tmp_path / 'nowhere'}"]
    error = refusal([item for item in arguments if item != f"data.streams.code.local={PREPARED / 'code'}"])
    assert f"cannot fetch {tmp_path / 'nowhere'}/tokenizer.json" in error
    assert "check data.streams.<name>.remote" in error
