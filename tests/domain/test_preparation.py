"""Preparation for a run: goes on, begins anew, or refuses in time; a refusal leaves nothing."""

import csv
import json
import shutil
from dataclasses import replace

import pytest
from rich.console import Console

from padless.checkpoint import Checkpoint, save_checkpoint
from padless.data.manifest import read_manifest
from padless.data.prepare import lock_folder
from padless.domain.preparation import plan_streams, prepare_stream, shards_folder
from padless.domain.settings import DOMAIN, GENERAL, Continuation
from padless.domain.source_facts import read_source
from padless.errors import DataError
from padless.export.source import resolve_source

QUIET = Console(quiet=True)
META = {"config": {}, "phase": "adapt", "clock_tokens": 512, "step": 1, "train_seconds": 1.0, "data": {}}


@pytest.fixture
def facts(source):
    return read_source(resolve_source(str(source)), None)


@pytest.fixture
def one_worker(monkeypatch):
    """Files are prepared one after the other and in this process: those before a broken one are done; chdir holds."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)


@pytest.fixture
def rows(tmp_path):
    """40 short rows of a CSV file."""
    path = tmp_path / "rows.csv"
    write(path, [f"row {number} is a note about a patient" for number in range(40)])
    return path


def write(path, texts):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["id", "note"], *([number, text] for number, text in enumerate(texts))])


def wanted(tmp_path, rows, **more):
    arguments = {"block_tokens": 256, "shards": str(tmp_path / "shards" / "x"), "runs": str(tmp_path / "runs"), **more}
    return Continuation(input=str(rows), source="unused", **arguments)


def planned(tmp_path, rows, facts, **more):
    said = []
    return plan_streams(wanted(tmp_path, rows, **more), facts, said.append), said


def left(tmp_path):
    return sorted(str(path.relative_to(tmp_path)) for path in (tmp_path / "shards").rglob("*"))


def test_few_rows_have_documents_to_validate_on(tmp_path, rows, facts):
    plans, said = planned(tmp_path, rows, facts)
    assert list(plans) == [DOMAIN]
    assert "4 are kept of the 40 different documents" in said[-1]
    manifest = prepare_stream(plans[DOMAIN], 128, QUIET)
    assert (manifest.documents["train"], manifest.documents["val"]) == (36, 4)
    assert manifest.split(128, "val").num_blocks == 1


def test_a_share_found_once_stays_when_documents_are_gone(tmp_path, rows, facts):
    first, _ = planned(tmp_path, rows, facts)
    prepare_stream(first[DOMAIN], 128, QUIET)
    rows.unlink()
    again, said = planned(tmp_path, rows, facts)
    assert again == first
    assert said == []
    assert prepare_stream(again[DOMAIN], 64, QUIET).split(64, "train").num_blocks > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"block_tokens": 512}, r"is prepared with block_tokens=256, this call has block_tokens=512\n.*name=domain-2"),
        ({"text_key": "id"}, r"is prepared with text_key=note, this call has text_key=id"),
        ({"val_fraction": 0.5}, r"is prepared with val_fraction=\S+, this call has val_fraction=0\.5"),
    ],
)
def test_another_setting_than_it_is_prepared_with_is_refused_in_time(tmp_path, rows, facts, more, message):
    prepare_stream(planned(tmp_path, rows, facts)[0][DOMAIN], 128, QUIET)
    with pytest.raises(DataError, match=message):
        planned(tmp_path, rows, facts, **more)


def test_other_documents_than_it_is_prepared_from_are_refused_with_a_free_name(tmp_path, rows, facts):
    prepare_stream(planned(tmp_path, rows, facts)[0][DOMAIN], 128, QUIET)
    (tmp_path / "runs" / "domain-2").mkdir(parents=True)
    write(rows, ["another note", "one more note"])
    with pytest.raises(DataError, match=r"is prepared from other files than .*rows\.csv has now\n.*name=domain-3"):
        planned(tmp_path, rows, facts)


def test_a_prepared_folder_without_validation_is_refused(tmp_path, rows, facts):
    plan = planned(tmp_path, rows, facts)[0][DOMAIN]
    prepare_stream(plan, 128, QUIET)
    path = plan.folder / "manifest.json"
    tree = json.loads(path.read_text())
    tree["documents"].update(train=40, val=0)
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError, match="is prepared without a document for validation"):
        planned(tmp_path, rows, facts)


def test_little_text_in_the_runs_own_place_is_prepared_anew_as_long_as_the_run_has_no_checkpoint(
    tmp_path, rows, facts, monkeypatch, one_worker
):
    monkeypatch.chdir(tmp_path)
    prepare_stream(planned(tmp_path, rows, facts, shards=None)[0][DOMAIN], 128, QUIET)
    write(rows, [f"another {number}" for number in range(20)])
    plan = planned(tmp_path, rows, facts, shards=None, block_tokens=512)[0][DOMAIN]
    assert read_manifest(plan.folder).block_tokens == 256, "nothing is written by a look"
    console = Console(record=True, width=200, file=(tmp_path / "said").open("w"))
    manifest = prepare_stream(plan, 128, console)
    assert "was prepared with block_tokens=256, this call has block_tokens=512: begun anew" in console.export_text()
    assert (manifest.block_tokens, manifest.documents["val"]) == (512, 2)
    assert planned(tmp_path, rows, facts, shards=None, block_tokens=512)[0][DOMAIN] == replace(plan, replaces=None)
    checkpoints = tmp_path / "runs" / "domain" / "checkpoints" / "adapt"
    checkpoints.mkdir(parents=True)
    save_checkpoint(checkpoints / "adapt-512tok.pt", Checkpoint({}, None, META), "hash")
    with pytest.raises(DataError, match=r"is prepared with block_tokens=512, this call has block_tokens=256"):
        planned(tmp_path, rows, facts, shards=None)


def test_much_text_is_not_prepared_anew(tmp_path, rows, facts, monkeypatch, one_worker):
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, rows, facts, shards=None, name="much")[0][DOMAIN]
    prepare_stream(plan, 128, QUIET)
    path = plan.folder / "manifest.json"
    tree = json.loads(path.read_text())
    tree["tokens"]["train"] = 30_000_000
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"is prepared with block_tokens=256.*\n.*name=much-2; or delete prepared/much"):
        planned(tmp_path, rows, facts, shards=None, name="much", block_tokens=512)


def break_row(path):
    """Break the table where a look at its first texts does not see it."""
    with path.open("a") as file:
        file.write('40,"open\n')


def test_a_failure_leaves_nothing_and_the_same_works_once_the_file_is_mended(tmp_path, rows, facts):
    plan = planned(tmp_path, rows, facts)[0][DOMAIN]
    whole = rows.read_bytes()
    break_row(rows)
    with pytest.raises(DataError, match="never closed"):
        prepare_stream(plan, 128, QUIET)
    assert left(tmp_path) == []
    rows.write_bytes(whole)
    assert prepare_stream(plan, 128, QUIET).documents["train"] == 36


@pytest.mark.usefixtures("one_worker")
def test_what_is_done_before_a_failure_is_kept_and_used(tmp_path, rows, facts):
    folder = tmp_path / "docs"
    folder.mkdir()
    shutil.copy(rows, folder / "a.csv")
    shutil.copy(rows, folder / "b.csv")
    write(folder / "b.csv", [f"other {number} note" for number in range(40)])
    plan = planned(tmp_path, folder, facts)[0][DOMAIN]
    whole = (folder / "b.csv").read_bytes()
    break_row(folder / "b.csv")
    with pytest.raises(DataError, match="never closed"):
        prepare_stream(plan, 128, QUIET)
    done = plan.folder / "tokens" / "00000.json"
    written = done.stat().st_mtime_ns
    (folder / "b.csv").write_bytes(whole)
    assert sum(prepare_stream(plan, 128, QUIET).documents[split] for split in ("train", "val")) == 80
    assert done.stat().st_mtime_ns == written


@pytest.mark.usefixtures("one_worker")
@pytest.mark.parametrize("change", ["share", "files"])
def test_a_half_prepared_folder_is_begun_anew_with_another_setting_or_other_files(tmp_path, rows, facts, change):
    folder = tmp_path / "docs"
    folder.mkdir()
    shutil.copy(rows, folder / "a.csv")
    (folder / "b.csv").write_text('id,note\n1,"open\n')
    console = Console(record=True, width=200, file=(tmp_path / "said").open("w"))
    first = planned(tmp_path, folder / "a.csv", facts, val_fraction=0.1)[0][DOMAIN]
    plan = replace(first, source=str(folder))
    with pytest.raises(DataError, match="never closed"):
        prepare_stream(plan, 128, QUIET)
    assert (plan.folder / "tokens" / "00000.json").is_file()
    write(folder / "b.csv", [f"other {number} note" for number in range(40)])
    if change == "files":
        (folder / "b.csv").rename(folder / "c.csv")
    again = planned(tmp_path, folder, facts, val_fraction=0.1 if change == "files" else 0.2)[0][DOMAIN]
    manifest = prepare_stream(again, 128, console)
    assert "was half prepared" in console.export_text()
    assert manifest.val_fraction == again.val_fraction
    assert manifest.documents["train"] + manifest.documents["val"] == 80


def test_a_folder_that_another_process_prepares_is_left_alone(tmp_path, rows, facts):
    plan = planned(tmp_path, rows, facts)[0][DOMAIN]
    plan.folder.mkdir(parents=True)
    with lock_folder(plan.folder), pytest.raises(DataError, match="is being prepared by another process"):
        prepare_stream(plan, 128, QUIET)
    assert plan.folder.is_dir()


def test_general_text_has_a_key_and_a_share_of_its_own(tmp_path, rows, facts):
    general = tmp_path / "general.jsonl"
    general.write_text("".join(json.dumps({"body": f"general text {number}"}) + "\n" for number in range(12)))
    plans, said = planned(tmp_path, rows, facts, general=str(general))
    assert (plans[GENERAL].text_key, plans[DOMAIN].text_key) == ("body", "note")
    assert "1 is kept of the 12 different documents" in said[-1]
    assert plans[GENERAL].folder == shards_folder(wanted(tmp_path, rows)) / GENERAL
    assert not (tmp_path / "shards").exists(), "nothing is written by a look"
