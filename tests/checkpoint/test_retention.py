"""What is deleted, and that a kill in the middle of it tells no lie."""

import pytest

from padless.checkpoint import apply_retention, checkpoints_to_delete, list_checkpoints, newest_checkpoint
from padless.checkpoint.listing import CheckpointRow


def row(folder, phase, clock, state="whole", kept=None):
    path = folder / "checkpoints" / phase / f"{phase}-{clock}tok.pt"
    return CheckpointRow(phase, clock, 1, None, None, 10, state, kept, path)


def clocks(rows):
    return [row.clock_tokens for row in rows]


def test_the_newest_stay_and_the_oldest_go_first(tmp_path):
    rows = [row(tmp_path, "short", clock) for clock in (300, 100, 500, 200, 400)]
    assert clocks(checkpoints_to_delete(rows, 2)) == [100, 200, 300]
    assert checkpoints_to_delete(rows, 5) == []
    assert checkpoints_to_delete(rows, None) == []
    assert checkpoints_to_delete([], 1) == []


def test_what_is_kept_for_a_reason_stays_besides_the_newest(tmp_path):
    rows = [
        row(tmp_path, "short", clock, kept="every 300 tokens" if clock == 300 else None)
        for clock in range(100, 700, 100)
    ]
    assert clocks(checkpoints_to_delete(rows, 2)) == [100, 200, 400]


@pytest.mark.parametrize("kept", ["phase end", None])
def test_the_last_of_an_earlier_phase_stays_also_where_no_sidecar_says_so(tmp_path, kept):
    rows = [row(tmp_path, "short", 100), row(tmp_path, "short", 200, kept=kept)]
    rows += [row(tmp_path, "context", clock) for clock in (300, 400, 500)]
    assert clocks(checkpoints_to_delete(rows, 1)) == [100, 300, 400]


def test_the_newest_whole_one_stays_whatever_is_asked(tmp_path):
    rows = [row(tmp_path, "short", 100), row(tmp_path, "short", 200), row(tmp_path, "short", 300, "damaged: x")]
    assert clocks(checkpoints_to_delete(rows, 0)) == [100]


@pytest.mark.parametrize("state", ["damaged: 3 bytes, should be 4", "unfinished", "set aside"])
def test_what_is_not_whole_neither_counts_nor_goes(tmp_path, state):
    rows = [row(tmp_path, "short", 100, "size ok"), row(tmp_path, "short", 200, "size ok")]
    rows += [row(tmp_path, "short", clock, state) for clock in (50, 150, 250)]
    assert clocks(checkpoints_to_delete(rows, 2)) == []
    assert clocks(checkpoints_to_delete(rows, 1)) == [100]
    assert checkpoints_to_delete(rows[2:], 1) == []


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_it_counts_what_is_on_disk_and_leaves_what_is_not_ours(tmp_path, save):
    for clock in (100, 200, 300, 400):
        save("short", clock, kept="phase end" if clock == 100 else None)
    folder = tmp_path / "checkpoints" / "short"
    others = ["best.pt", "notes.txt", "short-50tok.json.bad", "short-50tok.pt.bad", "short-60tok.pt"]
    for name in others:
        (folder / name).write_text("x")
    lines = []
    apply_retention(tmp_path, 2, lines.append)
    kept = [f"short-{clock}tok.{kind}" for clock in (100, 300, 400) for kind in ("json", "pt")]
    assert names(folder) == sorted([*others, *kept])
    assert lines == ["checkpoint checkpoints/short/short-200tok.pt deleted (run.keep_newest_checkpoints=2)"]


def test_nothing_is_deleted_without_a_number(tmp_path, save):
    save("short", 100), save("short", 200)
    before = names(tmp_path)
    apply_retention(tmp_path, None, print)
    assert names(tmp_path) == before


def test_a_kill_between_the_two_files_is_undone_and_the_next_deletion_does_it(tmp_path, save, kill_at):
    paths = [save("short", clock) for clock in (100, 200, 300)]
    kill_at("retention", lambda: apply_retention(tmp_path, 1, print))
    assert names(tmp_path)[:2] == ["short-100tok.json.deleting", "short-100tok.pt"]
    assert list_checkpoints(tmp_path, read_files=True)[0].state == "unfinished: its deletion, which a resume undoes"
    lines = []
    assert newest_checkpoint(tmp_path, lines.append) == paths[2]
    assert lines == [f"checkpoint {paths[0]} restored: a kill cut its deletion off"]
    assert [row.state for row in list_checkpoints(tmp_path, read_files=True)] == ["whole"] * 3
    kill_at("retention", lambda: apply_retention(tmp_path, 1, print))
    apply_retention(tmp_path, 1, lines.append)
    assert names(tmp_path) == ["short-300tok.json", "short-300tok.pt"]


def test_a_kill_after_the_file_is_gone_leaves_no_trace_of_a_lost_one(tmp_path, save):
    path = save("short", 100)
    path.unlink()
    path.with_suffix(".json").rename(path.with_name("short-100tok.json.deleting"))
    assert newest_checkpoint(tmp_path, print) is None
    assert names(tmp_path) == []


def test_a_deletion_cut_off_is_undone_even_if_it_is_then_the_only_one(tmp_path, save, kill_at):
    paths = [save("short", clock) for clock in (100, 200)]
    kill_at("retention", lambda: apply_retention(tmp_path, 1, print))
    for each in (paths[1], paths[1].with_suffix(".json")):
        each.unlink()
    assert newest_checkpoint(tmp_path, print) == paths[0]


def test_one_that_cannot_be_deleted_is_said_and_the_run_goes_on(tmp_path, save, not_root):
    paths = [save("short", clock) for clock in (100, 200)]
    paths[0].parent.chmod(0o500)
    lines = []
    apply_retention(tmp_path, 1, lines.append)
    paths[0].parent.chmod(0o700)
    assert lines == [f"checkpoint {paths[0]} could not be deleted: Permission denied"]
    assert newest_checkpoint(tmp_path, print) == paths[1]
