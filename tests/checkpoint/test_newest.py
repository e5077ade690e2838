"""Which checkpoint a resume takes, whatever a kill, a disk or a person did to the folder."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from padless.checkpoint import newest_checkpoint
from padless.errors import CheckpointError


def say_nothing(_line):
    pass


def sidecar(path):
    return path.with_suffix(".json")


def test_newest_over_all_phases_wins(tmp_path, save):
    save("short", 900)
    newest = save("anneal", 10_000)
    save("context", 2000)
    assert newest_checkpoint(tmp_path, say_nothing) == newest


def truncate(path: Path):
    path.write_bytes(path.read_bytes()[:-50])


def empty(path: Path):
    path.write_bytes(b"")


def flip(path: Path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def remove(path: Path):
    path.unlink()


def link_to_nowhere(path: Path):
    path.unlink()
    path.symlink_to("/nowhere/short.pt")


def link_sidecar_to_nowhere(path: Path):
    sidecar(path).unlink()
    sidecar(path).symlink_to("/nowhere/short.json")


def make_a_folder(path: Path):
    path.unlink()
    path.mkdir()


def spoil_sidecar(path: Path):
    sidecar(path).write_text("{")


def bloat_sidecar(path: Path):
    sidecar(path).write_text(" " * (1 << 17) + sidecar(path).read_text())


def change_sidecar(**changes):
    def change(path: Path):
        tree = json.loads(sidecar(path).read_text())
        sidecar(path).write_text(json.dumps({**tree, **changes}))

    return change


def take_the_pair_of_another(path: Path):
    other = path.with_name("short-900tok.pt")
    shutil.copy(other, path)
    shutil.copy(sidecar(other), sidecar(path))


def take_the_bytes_of_another(path: Path):
    shutil.copy(path.with_name("short-900tok.pt"), path)


DAMAGES = [
    (truncate, r"[\d_]+ bytes, should be"),
    (empty, r"0 bytes, should be"),
    (flip, "content does not match its sha256"),
    (remove, "file is missing, its sidecar is there"),
    (link_to_nowhere, r"a link to /nowhere/short\.pt, where there is nothing"),
    (link_sidecar_to_nowhere, r"sidecar short-1_800tok\.json does not parse \(No such file"),
    (make_a_folder, "it is not a file"),
    (spoil_sidecar, r"sidecar short-1_800tok\.json does not parse \(Expecting"),
    (bloat_sidecar, r"does not parse \(it has more than 65_536 bytes"),
    (change_sidecar(size_bytes="1"), r"does not parse \(size_bytes is '1'"),
    (change_sidecar(clock_tokens=True), r"does not parse \(clock_tokens is True"),
    (change_sidecar(kept=3), r"does not parse \(kept is 3"),
    (change_sidecar(lr="high"), r"does not parse \(lr is 'high'"),
    (change_sidecar(format_version=2), r"does not parse \(it has format 2, this version reads 1"),
    (change_sidecar(file="../../x.pt"), r"its sidecar belongs to \.\./\.\./x\.pt"),
    (change_sidecar(phase="context"), "its sidecar belongs to .*, phase 'context' at 1_800 tokens"),
    (take_the_pair_of_another, r"its sidecar belongs to short-900tok\.pt, phase 'short' at 900 tokens"),
    (take_the_bytes_of_another, "sha256|bytes, should be"),
]
NAMES = [f"{number}-{damage.__name__}" for number, (damage, _) in enumerate(DAMAGES)]


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=NAMES)
def test_a_damaged_newest_is_set_aside_by_name_and_the_one_before_is_used(tmp_path, save, damage, message):
    good, bad = save("short", 900), save("short", 1800)
    damage(bad)
    lines = []
    assert newest_checkpoint(tmp_path, lines.append) == good
    assert len(lines) == 1
    assert re.search(message, lines[0])
    assert str(bad) in lines[0]
    assert ".bad: " in lines[0]
    assert not os.path.lexists(bad)
    assert not os.path.lexists(sidecar(bad))
    assert list(bad.parent.glob("*.bad"))
    assert newest_checkpoint(tmp_path, lines.append) == good
    assert len(lines) == 1


@pytest.mark.parametrize(("damage", "message"), DAMAGES, ids=NAMES)
def test_an_only_checkpoint_that_is_damaged_is_an_error_and_stays_one(tmp_path, save, damage, message):
    if "of_another" in damage.__name__:
        save("short", 900)
    path = save("short", 1800)
    damage(path)
    for other in path.parent.glob("short-900tok*"):
        other.unlink()
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"has checkpoints, but none is whole\n.*restore one with its \.json"):
            newest_checkpoint(tmp_path, say_nothing)


def test_a_second_bad_one_does_not_overwrite_the_first(tmp_path, save):
    good = save("short", 900)
    for content in (b"first", b"second", b"third"):
        save("short", 1800).write_bytes(content)
        assert newest_checkpoint(tmp_path, say_nothing) == good
    endings = ("", ".2", ".3")
    kept = [(good.parent / f"short-1_800tok.pt.bad{ending}").read_bytes() for ending in endings]
    assert kept == [b"first", b"second", b"third"]
    assert all((good.parent / f"short-1_800tok.json.bad{ending}").is_file() for ending in endings)


def test_a_kill_in_the_first_save_leaves_nothing_to_go_on_from_and_no_error(tmp_path, save):
    path = save("short", 900)
    sidecar(path).unlink()
    lines = []
    assert newest_checkpoint(tmp_path, lines.append) is None
    assert lines == [f"checkpoint {path} set aside as {path.name}.bad: it has no sidecar, so its save did not finish"]
    assert newest_checkpoint(tmp_path, say_nothing) is None


def test_a_first_save_cut_off_again_and_again_is_still_no_error(tmp_path, save):
    for _ in range(3):
        sidecar(save("short", 900)).unlink()
        assert newest_checkpoint(tmp_path, say_nothing) is None


def names(folder):
    return sorted(str(path) for path in folder.rglob("*"))


def lose_all(save):
    for phase, clock in (("short", 900), ("short", 1800), ("context", 2700)):
        sidecar(save(phase, clock)).unlink()
    return "3 files lack their sidecars"


def lose_two_one_aside(save):
    """A save that a kill cut off, set aside by a first start; then another without a sidecar at another clock."""
    path = save("short", 900)
    sidecar(path).unlink()
    path.rename(path.with_name(path.name + ".bad"))
    sidecar(save("short", 1800)).unlink()
    return "2 files lack their sidecars"


def lose_two_aside(save):
    """As an earlier start left them that went on from a whole one, which then went away."""
    for clock in (900, 1800):
        path = save("short", clock)
        sidecar(path).unlink()
        path.rename(path.with_name(path.name + ".bad"))
    return "2 files lack their sidecars"


def lose_one_before_a_save_in_progress(save):
    path = save("short", 900)
    sidecar(path).unlink()
    path.with_name("short-1_800tok.pt.partial").write_bytes(b"half")
    return "1 file lacks its sidecar"


def lose_one_before_a_damaged_one(save):
    sidecar(save("short", 900)).unlink()
    truncate(save("short", 1800))
    return "1 file lacks its sidecar"


def lose_that_of_a_link(save):
    path = save("short", 900)
    sidecar(path).unlink()
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")
    return "1 file lacks its sidecar"


@pytest.mark.parametrize(
    "lose",
    [
        lose_all,
        lose_two_one_aside,
        lose_two_aside,
        lose_one_before_a_save_in_progress,
        lose_one_before_a_damaged_one,
        lose_that_of_a_link,
    ],
)
def test_lost_sidecars_are_an_error_that_changes_nothing_and_never_a_fresh_start(tmp_path, save, lose):
    message = lose(save)
    before = names(tmp_path)
    for _ in range(2):
        with pytest.raises(CheckpointError) as refused:
            newest_checkpoint(tmp_path, say_nothing)
        assert f"{tmp_path / 'checkpoints'} has checkpoints, but none is whole: {message} (.json)" in str(refused.value)
        for part in ("restore the .json files", "another run.name", "start.source=<file>"):
            assert part in refused.value.remedy
        assert names(tmp_path) == before


def test_sidecars_that_are_restored_after_the_error_are_used(tmp_path, save):
    paths = [save("short", clock) for clock in (900, 1800)]
    contents = [sidecar(path).read_text() for path in paths]
    for path in paths:
        sidecar(path).unlink()
    lines = []
    with pytest.raises(CheckpointError, match="2 files lack"):
        newest_checkpoint(tmp_path, lines.append)
    assert lines[1] == f"checkpoint {paths[0]} is not whole: its sidecar is missing"
    for path, content in zip(paths, contents, strict=True):
        sidecar(path).write_text(content)
    assert newest_checkpoint(tmp_path, say_nothing) == paths[1]


def test_several_without_sidecars_are_set_aside_beside_a_whole_one_which_goes_on(tmp_path, save):
    good, *lost = (save("short", clock) for clock in (900, 1800, 2700))
    for path in lost:
        sidecar(path).unlink()
    lines = []
    assert newest_checkpoint(tmp_path, lines.append) == good
    assert [line.partition(" set aside as ")[0] for line in lines] == [f"checkpoint {path}" for path in lost[::-1]]
    assert all(path.with_name(path.name + ".bad").is_file() for path in lost)
    assert newest_checkpoint(tmp_path, say_nothing) == good


def test_a_link_without_a_sidecar_that_was_set_aside_is_no_reason_to_start_afresh(tmp_path, save):
    good, link = save("short", 900), save("short", 1800)
    sidecar(link).unlink()
    link.rename(tmp_path / "elsewhere")
    link.symlink_to(tmp_path / "elsewhere")
    assert newest_checkpoint(tmp_path, say_nothing) == good
    good.unlink()
    sidecar(good).unlink()
    for _ in range(2):
        with pytest.raises(CheckpointError, match="has checkpoints, but none is whole"):
            newest_checkpoint(tmp_path, say_nothing)


def test_an_unfinished_newest_is_set_aside_and_the_one_before_is_used(tmp_path, save):
    good, cut = save("short", 900), save("short", 1800)
    sidecar(cut).unlink()
    assert newest_checkpoint(tmp_path, say_nothing) == good
    assert cut.with_name(cut.name + ".bad").is_file()


def test_a_run_without_checkpoints_starts_afresh(tmp_path):
    assert newest_checkpoint(tmp_path / "new", say_nothing) is None
    (tmp_path / "checkpoints" / "short").mkdir(parents=True)
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    assert newest_checkpoint(tmp_path, say_nothing) is None


def test_what_a_kill_left_of_saves_is_removed_with_a_line(tmp_path, save):
    good = save("short", 900)
    ours = [good.with_name("short-1_800tok.pt.partial"), good.with_name("short-900tok.json.partial")]
    other = good.with_name("notes.partial")
    for path in (*ours, other):
        path.write_bytes(b"half")
    lines = []
    assert newest_checkpoint(tmp_path, lines.append) == good
    assert lines == [f"{path} removed: a kill cut its save off" for path in ours]
    assert not any(path.exists() for path in ours)
    assert other.exists()


@pytest.mark.parametrize(
    "name", ["best.pt", "short-2_000tok copy.pt", "short-2000tok.pt", "context-2_000tok.pt", "short-2_00xtok.pt"]
)
def test_a_name_that_is_not_ours_is_said_left_alone_and_no_reason_to_start_afresh(tmp_path, save, name):
    good = save("short", 900)
    stranger = good.with_name(name)
    shutil.copy(good, stranger)
    lines = []
    assert newest_checkpoint(tmp_path, lines.append) == good
    assert lines[0].startswith(f"{stranger} left alone: it is not named <phase>/<phase>-<tokens>tok.pt")
    good.unlink()
    sidecar(good).unlink()
    with pytest.raises(CheckpointError, match="none is whole"):
        newest_checkpoint(tmp_path, say_nothing)
    assert stranger.is_file()


def test_a_checkpoints_folder_on_a_disk_that_is_not_there_is_an_error(tmp_path):
    (tmp_path / "checkpoints").symlink_to("/nowhere/checkpoints")
    with pytest.raises(CheckpointError, match=r"a link to /nowhere/checkpoints cannot be read(.|\n)*disk mounted"):
        newest_checkpoint(tmp_path, say_nothing)


def test_a_phase_folder_on_a_disk_that_is_not_there_is_an_error(tmp_path, save):
    save("short", 900)
    (tmp_path / "checkpoints" / "context").symlink_to("/nowhere/context")
    with pytest.raises(CheckpointError, match="a link to /nowhere/context cannot be read: No such file"):
        newest_checkpoint(tmp_path, say_nothing)


def test_a_checkpoint_behind_links_is_used(tmp_path, save):
    path = save("short", 900)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for each in (path, sidecar(path)):
        each.rename(elsewhere / each.name)
        each.symlink_to(elsewhere / each.name)
    assert newest_checkpoint(tmp_path, say_nothing) == path


def test_a_file_that_may_not_be_read_is_set_aside(tmp_path, save, not_root):
    good, closed = save("short", 900), save("short", 1800)
    closed.chmod(0)
    lines = []
    assert newest_checkpoint(tmp_path, lines.append) == good
    assert "it cannot be read: Permission denied" in lines[0]


def test_a_folder_that_may_not_be_changed_is_an_error_by_name(tmp_path, save, monkeypatch):
    save("short", 900)
    truncate(save("short", 1800))

    def refuse(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(CheckpointError, match=r"short-1_800tok\.pt cannot be renamed or removed: Perm.*\n.*writable"):
        newest_checkpoint(tmp_path, say_nothing)
