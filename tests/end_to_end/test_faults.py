"""What can go wrong with a run: the user is told the cause and the remedy, and nothing is lost.

After each fault the run goes on, from the older checkpoint or after the remedy, and ends with every loss and block of
the run that nothing happened to.
"""

import json
import shutil

import pytest
from faults import (
    BEFORE,
    NEWEST,
    SPLIT,
    Disk,
    edit_json,
    ends_as,
    flip_a_bit,
    interrupted,
    prepared_copy,
    rewrite_blocks,
    small,
    small_run,
    spoil_ids,
    spoil_lengths,
    stream_at,
)
from here import copy_of, refusal, run_here
from runs import metrics, steps

from padless.train.callbacks.metrics import MetricsFile
from padless.train.status import write_status

pytestmark = [pytest.mark.slow, pytest.mark.composer]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return small_run(tmp_path_factory)


@pytest.fixture
def finished(undisturbed, tmp_path):
    """A copy of the small run, which is finished."""
    copy_of(undisturbed, tmp_path / "smoke")
    return tmp_path


@pytest.fixture
def stopped(undisturbed, tmp_path):
    """A copy of the small run as it was before its last checkpoint."""
    return interrupted(undisturbed, tmp_path)


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path / "disk", "64m")
    yield made
    made.unmount()


# ---- the newest checkpoint -------------------------------------------------------------------------------------------


def truncate(folder):
    path = folder / f"{NEWEST}.pt"
    path.write_bytes(path.read_bytes()[:100_000])


def empty(folder):
    (folder / f"{NEWEST}.pt").write_bytes(b"")


def flip(folder):
    flip_a_bit(folder / f"{NEWEST}.pt")


def remove(folder):
    (folder / f"{NEWEST}.pt").unlink()


def remove_sidecar(folder):
    (folder / f"{NEWEST}.json").unlink()


def empty_sidecar(folder):
    (folder / f"{NEWEST}.json").write_bytes(b"")


def dangle(folder):
    (folder / f"{NEWEST}.pt").unlink()
    (folder / f"{NEWEST}.pt").symlink_to(folder.parent / "nowhere.pt")


def exchange_sidecars(folder):
    a, b, third = folder / f"{NEWEST}.json", folder / f"{BEFORE}.json", folder / "third"
    a.rename(third)
    b.rename(a)
    third.rename(b)


def exchange_files(folder):
    a, b, third = folder / f"{NEWEST}.pt", folder / f"{BEFORE}.pt", folder / "third"
    a.rename(third)
    b.rename(a)
    third.rename(b)


@pytest.mark.parametrize(
    ("damage", "said", "resumes_from"),
    [
        (truncate, "100_000 bytes, should be ", BEFORE),
        (empty, "0 bytes, should be ", BEFORE),
        (flip, "content does not match its sha256", BEFORE),
        (remove, "file is missing, its sidecar is there", BEFORE),
        (dangle, "file is missing: it is a link to ", BEFORE),
        (remove_sidecar, "it has no sidecar, so its save did not finish", BEFORE),
        (empty_sidecar, f"the sidecar {NEWEST}.json does not parse", BEFORE),
        (exchange_sidecars, f"its sidecar belongs to {BEFORE}.pt, phase 'short' at 9_216 tokens", "short-6_144tok"),
        (exchange_files, "content does not match its sha256|bytes, should be", "short-6_144tok"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_damaged_newest_checkpoint_is_set_aside_by_name_and_the_one_before_goes_on(
    finished, undisturbed, damage, said, resumes_from
):
    folder = finished / "smoke" / "checkpoints" / "short"
    damage(folder)
    output = ends_as(undisturbed, small(finished), finished)
    line = next(text for text in output.splitlines() if text.startswith(f"checkpoint {folder / NEWEST}.pt set aside"))
    assert any(part in line for part in said.split("|"))
    assert ".bad: " in line
    assert f"from {folder / resumes_from}.pt; first batch after " in output
    assert (folder / f"{NEWEST}.pt").is_file()
    assert not (folder / f"{NEWEST}.pt").is_symlink()


def test_the_file_of_another_run_is_set_aside_and_its_whole_pair_is_refused_by_what_differs(
    finished, undisturbed, tmp_path
):
    run_here(small(tmp_path / "other", **{"run.seed": 18}))
    other = tmp_path / "other" / "smoke" / "checkpoints" / "short"
    folder = finished / "smoke" / "checkpoints" / "short"
    whole = {ending: (folder / f"{NEWEST}{ending}").read_bytes() for ending in (".pt", ".json")}
    shutil.copy(other / f"{NEWEST}.pt", folder)
    shutil.copy(other / f"{NEWEST}.json", folder)
    error = refusal(small(finished))
    assert f"{finished / 'smoke'} belongs to another config; old -> new: run.seed: 18 -> 17" in error
    assert "set these back, or choose another run.name" in error
    (folder / f"{NEWEST}.json").write_bytes(whole[".json"])
    output = ends_as(undisturbed, small(finished), finished)
    assert f"checkpoint {folder / NEWEST}.pt set aside as {NEWEST}.pt.bad: " in output


def test_no_whole_checkpoint_is_an_error_and_never_a_fresh_start(finished, undisturbed):
    folder = finished / "smoke" / "checkpoints" / "short"
    backup = copy_of(folder, finished / "backup")
    for path in folder.glob("*.pt"):
        flip_a_bit(path)
    before = (finished / "smoke" / "metrics.jsonl").read_bytes()
    for _ in range(2):
        error = refusal(small(finished))
        assert f"{folder.parent} has checkpoints, but none is whole" in error
        assert "restore one with its .json from a backup, or choose another run.name to start over" in error
    assert (finished / "smoke" / "metrics.jsonl").read_bytes() == before
    for ending in (".pt", ".json"):
        shutil.copy(backup / f"{BEFORE}{ending}", folder)
    ends_as(undisturbed, small(finished), finished)


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again_with_each_line_once(finished, undisturbed):
    folder = finished / "smoke"
    shutil.rmtree(folder / "checkpoints")
    started, *_ = (folder / "lineage.jsonl").read_text().splitlines(keepends=True)  # a kill leaves this and no more
    (folder / "lineage.jsonl").write_text(started)
    write_status(folder, "running", clock_tokens=0, step=0, phase="short")
    ends_as(undisturbed, small(finished), finished)


# ---- disks -----------------------------------------------------------------------------------------------------------


def test_too_little_space_is_refused_before_the_first_step(disk, undisturbed):
    disk.remount("size=3m")
    error = refusal(small(disk.path))
    assert f"{disk.path / 'smoke'} has " in error
    assert "MB free, one checkpoint needs 3." in error
    assert "remedy: free disk space, or choose another run.folder" in error
    assert not steps(disk.path / "smoke")
    disk.remount("size=64m")
    ends_as(undisturbed, small(disk.path), disk.path)


def test_a_disk_that_fills_up_in_a_save_leaves_the_last_good_checkpoint(disk, undisturbed):
    disk.remount("size=6m")
    error = refusal(small(disk.path))
    folder = disk.path / "smoke" / "checkpoints" / "short"
    assert f"cannot write {folder / BEFORE}.pt: No space left on device; it needs about 3." in error
    assert "remedy: free disk space or make the folder writable and start the same command again" in error
    assert sorted(path.name for path in folder.iterdir()) == [
        f"short-{clock}tok.{ending}" for clock in ("3_072", "6_144") for ending in ("json", "pt")
    ]
    disk.remount("size=64m")
    output = ends_as(undisturbed, small(disk.path), disk.path)
    assert f"from {folder / 'short-6_144tok'}.pt; first batch after " in output
    assert "set aside" not in output


def test_a_disk_without_room_for_a_line_of_metrics_is_an_error_that_loses_nothing(disk, undisturbed, monkeypatch):
    append = MetricsFile.append
    full = []

    def append_to_a_full_disk(self, line):
        size = self._path.stat().st_size if self._path.exists() else 0
        if not full and line.get("step") == 10:
            with self._path.open("a") as file:  # the file system gives out 4 KiB at once
                file.write(" " * (-size % 4096))
            full.append(disk.fill())
        append(self, line)

    monkeypatch.setattr(MetricsFile, "append", append_to_a_full_disk)
    error = refusal(small(disk.path))
    assert str(disk.path / "smoke" / "metrics.jsonl") in error
    assert "No space left on device" in error
    full[0].unlink()
    output = ends_as(undisturbed, small(disk.path), disk.path)
    assert f"{disk.path / 'smoke'}/checkpoints/short/short-3_072tok.pt; first batch after " in output


@pytest.mark.parametrize("is_new", [True, False], ids=["new run", "run to resume"])
def test_a_read_only_run_folder_is_refused_by_name(disk, undisturbed, is_new):
    if not is_new:
        interrupted(undisturbed, disk.path)
    disk.remount("ro")
    error = refusal(small(disk.path))
    assert str(disk.path / "smoke") in error
    assert "cannot be written (Read-only file system)" in error
    assert "remedy: make it writable, or choose another run.folder" in error
    disk.remount("rw")
    ends_as(undisturbed, small(disk.path), disk.path)


# ---- data ------------------------------------------------------------------------------------------------------------


def truncate_shard(stream):
    shard = stream / SPLIT / "shard.00000.mds"
    shard.write_bytes(shard.read_bytes()[:-1000])


def flip_in_shard(stream):
    flip_a_bit(stream / SPLIT / "shard.00000.mds")


def impossible_ids(stream):
    rewrite_blocks(stream, spoil_ids, believed=False)


def impossible_lengths(stream):
    rewrite_blocks(stream, spoil_lengths, believed=False)


def remove_shard(stream):
    (stream / SPLIT / "shard.00000.mds").unlink()


def index_of_another_split(stream):
    shutil.copy(stream / SPLIT.parent / "val" / "index.json", stream / SPLIT)


def cut_index(stream):
    index = stream / SPLIT / "index.json"
    index.write_bytes(index.read_bytes()[:-20])


def count_wrong(stream):
    edit_json(stream / SPLIT / "index.json", lambda tree: tree["shards"][0].update(samples=7))


def other_tokenizer(stream):
    tokenizer = stream / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")


SHARD, INDEX = "{stream}/blocks/64/train/shard.00000.mds", "{stream}/blocks/64/train/index.json"
AGAIN = "remedy: prepare the folder again (data_prep/prepare.py), or copy it again in full"


@pytest.mark.parametrize(
    ("damage", "settings", "cause", "remedy"),
    [
        (truncate_shard, {}, f"shard {SHARD} is damaged: ", AGAIN),
        (remove_shard, {}, f"shard {SHARD} is missing", AGAIN),
        (flip_in_shard, {"data.verify": "first_read"}, f"shard {SHARD} is damaged: its SHA-256 is not", AGAIN),
        (
            flip_in_shard,
            {"data.verify": "first_read", "data.num_workers": 2},
            f"shard {SHARD} is damaged: its SHA-256 is not the manifest's",
            AGAIN,
        ),
        (flip_in_shard, {"data.verify": "all"}, f"shard {SHARD} is damaged: its SHA-256 is not", AGAIN),
        (impossible_ids, {"data.verify": "off"}, f"stream 'code', shard {SHARD}, sample ", AGAIN),
        (
            impossible_lengths,
            {"data.verify": "off", "data.num_workers": 2},
            f"stream 'code', shard {SHARD}, sample ",
            AGAIN,
        ),
        (index_of_another_split, {}, f"{INDEX} does not list the shards that the manifest names", AGAIN),
        (cut_index, {}, f"{INDEX} is not an MDS index: JSONDecodeError", AGAIN),
        (count_wrong, {}, f"{INDEX} has 7 samples, the manifest ", AGAIN),
        (
            other_tokenizer,
            {},
            "{stream}/tokenizer.json is not the tokenizer the shards were made with",
            "remedy: put the original tokenizer.json back, or prepare the documents again with this one",
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_damaged_data_is_refused_by_file_and_mended_data_goes_on(stopped, undisturbed, damage, settings, cause, remedy):
    stream = prepared_copy(stopped / "data")
    whole = copy_of(stream, stopped / "whole")
    damage(stream)
    error = refusal(small(stopped, **stream_at(stream), **settings))
    assert cause.format(stream=stream) in error
    assert remedy in error
    if cause.endswith("sample "):
        assert "it has token id 60_000, the vocabulary ends at " in error or "its segment lengths add up to" in error
    shutil.rmtree(stream)
    whole.rename(stream)
    output = ends_as(undisturbed, small(stopped, **stream_at(stream), **settings), stopped)
    assert f"{BEFORE}.pt; first batch after " in output


# ---- settings --------------------------------------------------------------------------------------------------------


def test_a_changed_seed_is_refused_with_both_values_and_accepted_where_it_is_named(stopped):
    error = refusal(small(stopped, **{"run.seed": 18}))
    assert f"{stopped / 'smoke'} belongs to another config; old -> new: run.seed: 17 -> 18" in error
    assert "set these back, or choose another run.name for a new run" in error
    assert "to go on with the change on purpose: run.accept_changes=[run.seed]" in error
    output = run_here(small(stopped, **{"run.seed": 18, "run.accept_changes": "[run.seed]"}))
    assert "note: accepted by run.accept_changes: run.seed: 17 -> 18" in output
    lineage = [json.loads(text) for text in (stopped / "smoke" / "lineage.jsonl").read_text().splitlines()]
    resume = [line for line in lineage if line["event"] == "resume"][-1]
    assert (resume["clock_tokens"], resume["accepted"]) == (9_216, ["run.seed: 17 -> 18"])
    assert metrics(stopped / "smoke")[-1]["tokens"] == 12_288
