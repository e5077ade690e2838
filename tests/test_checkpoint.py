import pickle
from pathlib import Path

import pytest
import torch

from padless.checkpoint import Checkpoint, checkpoint_path, load_checkpoint, newest_checkpoint, save_checkpoint
from padless.errors import CheckpointError


def save(folder, phase, clock):
    meta = {"phase": phase, "clock_tokens": clock, "step": clock // 100}
    path = checkpoint_path(folder, phase, clock)
    save_checkpoint(path, Checkpoint({"w": torch.full((4,), float(clock))}, {"moments": {}}, meta), "hash")
    return path


def say_nothing(_line):
    pass


def test_round_trip_and_readable_name(tmp_path):
    path = save(tmp_path, "short", 1_402_880)
    assert path.name == "short-1_402_880tok.pt"
    loaded = load_checkpoint(path)
    assert (loaded.clock_tokens, loaded.step) == (1_402_880, 14_028)
    assert loaded.model["w"].tolist() == [1_402_880.0] * 4
    assert not list(path.parent.glob(".*"))


def test_newest_over_all_phases_wins(tmp_path):
    save(tmp_path, "short", 900)
    newest = save(tmp_path, "anneal", 10_000)
    save(tmp_path, "context", 2000)
    assert newest_checkpoint(tmp_path, say_nothing) == newest


def truncate(path: Path):
    path.write_bytes(path.read_bytes()[:-50])


def flip(path: Path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def remove_sidecar(path: Path):
    path.with_suffix(".json").unlink()


def spoil_sidecar(path: Path):
    path.with_suffix(".json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [(truncate, "bytes, should be"), (flip, "sha256"), (remove_sidecar, "did not finish"), (spoil_sidecar, "parse")],
)
def test_a_damaged_newest_is_set_aside_by_name_and_the_one_before_is_used(tmp_path, damage, message):
    good, bad = save(tmp_path, "short", 900), save(tmp_path, "short", 1800)
    damage(bad)
    lines = []
    assert newest_checkpoint(tmp_path, lines.append) == good
    assert message in lines[0]
    assert bad.with_name(bad.name + ".bad").exists()
    assert not bad.exists()


def test_a_kill_in_the_first_save_leaves_nothing_to_go_on_from_and_no_error(tmp_path):
    remove_sidecar(save(tmp_path, "short", 900))
    lines = []
    assert newest_checkpoint(tmp_path, lines.append) is None
    assert "did not finish" in lines[0]
    assert newest_checkpoint(tmp_path, say_nothing) is None


def test_no_checkpoint_is_a_fresh_start_but_none_usable_is_an_error(tmp_path):
    assert newest_checkpoint(tmp_path, say_nothing) is None
    truncate(save(tmp_path, "short", 900))
    with pytest.raises(CheckpointError, match="none is whole"):
        newest_checkpoint(tmp_path, say_nothing)
    with pytest.raises(CheckpointError, match="none is whole"):
        newest_checkpoint(tmp_path, say_nothing)


class Payload:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_loading_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format_version": 1, "model": Payload()}, tmp_path / "evil.pt")
    (tmp_path / "evil_plain.pt").write_bytes(pickle.dumps(Payload()))
    for name in ("evil.pt", "evil_plain.pt"):
        with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "executed").exists()


def test_another_format_is_refused(tmp_path):
    torch.save({"format_version": 99}, tmp_path / "new.pt")
    with pytest.raises(CheckpointError, match="format 99, this version reads 1"):
        load_checkpoint(tmp_path / "new.pt")


def test_a_save_that_cannot_be_written_leaves_earlier_ones(tmp_path):
    good = save(tmp_path, "short", 900)
    (tmp_path / "checkpoints" / "context").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match="cannot write"):
        save(tmp_path, "context", 1800)
    assert newest_checkpoint(tmp_path, say_nothing) == good
