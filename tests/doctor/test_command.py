"""``padless doctor`` as a user sees it: lines, remedies, exit code, one JSON object."""

import json
import subprocess
import sys

import pytest

from padless.doctor import command, host
from padless.doctor.command import doctor_command


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Away from the repository and its launchers: nothing is prepared here and nothing may be written."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):  # a run in this process may have set them
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def quick(monkeypatch):
    """Without the probe that imports every package: it has a test of its own, and takes seconds."""
    monkeypatch.setattr(command, "_IMPORTED", ("json",))


@pytest.mark.slow
@pytest.mark.composer
def test_the_demo_s_needs_are_checked_without_overrides(tmp_path, capsys):
    assert doctor_command([], False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith(" notes, 0 to mend")
    names = {line[6:24].strip() for line in lines[:-1]}
    assert names >= {
        *("settings", "python", "packages", "torch", "encoding", "open files", "temporary folder", "leftovers"),
        *("network", "launcher", "run folder", "syncing", "locks", "disk", "stream code", "tokenizer", "gpu"),
        *("attention", "cpus", "memory", "shared memory", "nccl", "imports", "gloo"),
    }
    assert {line[:6].strip() for line in lines[:-1]} <= {"ok", "note"}
    assert list(tmp_path.iterdir()) == []


def test_what_a_published_recipe_lacks_here_is_said_as_one_json_object(capsys, quick):
    overrides = ["recipe=modernbert_base", "hardware=8xh100", "data.streams.main.local=/no/such/folder"]
    assert doctor_command(overrides, True) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    lines = {line["name"]: line for line in found["checks"]}
    assert (lines["settings"]["state"], lines["settings"]["remedy"]) == ("ok", None)
    assert lines["stream main"]["state"] == "mend"
    assert lines["stream main"]["found"] == "/no/such/folder does not exist"
    assert "data_prep/prepare.py" in lines["stream main"]["remedy"]
    assert lines["gpu"]["state"] == "mend"
    assert "1.016 GiB needed" in lines["shared memory"]["found"]


def test_settings_that_cannot_be_used_leave_the_other_checks(capsys, quick):
    assert doctor_command(["recipe=modernbert_bas"], False) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mend  settings          there is no recipe called 'modernbert_bas'")
    assert lines[1].startswith("      remedy:           did you mean recipe=modernbert_base?")
    assert any(line.startswith("ok    gloo") for line in lines)
    assert not any("disk" in line[:24] for line in lines)
    assert lines[-1].endswith(", 1 to mend")


def test_a_rule_that_does_not_hold_is_a_line(capsys, quick):
    assert doctor_command(["run.keep_newest_checkpoints=0"], True) == 2
    lines = json.loads(capsys.readouterr().out)["checks"]
    assert [line["name"] for line in lines if line["state"] == "mend"] == ["settings"]
    assert "run.keep_newest_checkpoints=0" in lines[0]["found"]


def test_a_check_that_fails_is_a_line_and_the_others_go_on(capsys, quick, monkeypatch):
    def fail(*arguments):
        raise OSError("no such thing on this kernel")

    monkeypatch.setattr(host, "look_at_open_files", fail)
    monkeypatch.setattr(host, "look_at_memory", fail)
    assert doctor_command([], True) == 2
    lines = {line["name"]: line for line in json.loads(capsys.readouterr().out)["checks"]}
    for name in ("open files", "memory"):
        assert lines[name]["found"] == "the check failed: OSError: no such thing on this kernel"
    assert lines["shared memory"]["state"] == "ok"


@pytest.mark.slow
@pytest.mark.composer
def test_composer_is_not_imported_into_the_doctor(tmp_path):
    script = (
        "import sys; from padless.doctor.command import examine; list(examine([]));"
        "print([name for name in ('composer', 'streaming') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\n"
