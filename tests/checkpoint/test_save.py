"""A save is whole or not there, and what stops it leaves the earlier ones."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
import torch

from padless.checkpoint import Checkpoint, checkpoint_path, load_checkpoint, newest_checkpoint, save_checkpoint
from padless.checkpoint.sidecar import Sidecar, read_sidecar
from padless.errors import CheckpointError


def say_nothing(_line):
    pass


def test_the_sidecar_says_what_the_file_is(tmp_path, small):
    path = checkpoint_path(tmp_path, "short", 900)
    written = save_checkpoint(path, small(eval_loss=2.5), "hash", lr=8e-4, kept="phase end")
    sidecar = read_sidecar(path.with_suffix(".json"))
    assert sidecar == written
    assert (sidecar.file, sidecar.phase, sidecar.clock_tokens, sidecar.step) == (path.name, "short", 900, 9)
    assert (sidecar.lr, sidecar.eval_loss, sidecar.kept, sidecar.config_hash) == (8e-4, 2.5, "phase end", "hash")
    assert (sidecar.size_bytes, sidecar.sha256) == (path.stat().st_size, sha256(path.read_bytes()).hexdigest())
    age = datetime.now(UTC) - datetime.fromisoformat(sidecar.saved_at)
    assert timedelta(0) <= age < timedelta(minutes=5)


def test_the_hash_taken_while_writing_is_the_files_also_for_large_tensors(tmp_path, small):
    model = {"a": torch.randn(1_000_000), "b": torch.randn(3, 5).to(torch.bfloat16)}
    written = save_checkpoint(tmp_path / "x.pt", Checkpoint(model, None, small().meta), "hash")
    assert written.sha256 == sha256((tmp_path / "x.pt").read_bytes()).hexdigest()


def test_sidecars_of_earlier_and_later_versions_are_read(tmp_path, save):
    path = save("short", 900, lr=1e-3, kept="phase end")
    sidecar = path.with_suffix(".json")
    tree = json.loads(sidecar.read_text())
    for name in ("lr", "eval_loss", "kept", "saved_at"):
        del tree[name]
    sidecar.write_text(json.dumps({**tree, "unheard_of": [1]}))
    read = read_sidecar(sidecar)
    assert (read.lr, read.eval_loss, read.kept, read.saved_at) == (None, None, None, None)
    assert newest_checkpoint(tmp_path, say_nothing) == path


def test_a_sidecar_that_lacks_a_field_is_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"format_version": 1, "file": "x.pt"}')
    with pytest.raises(CheckpointError, match=r"sidecar x\.json does not parse \(.*missing"):
        read_sidecar(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"does not parse \(it is a list\)"):
        read_sidecar(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("event", "left", "lines"),
    [
        ("save_inside", [".pt.partial"], 1),
        ("save_before_sidecar", [".pt"], 1),
        ("save_after", [".json", ".pt"], 0),
    ],
)
def test_a_kill_in_a_save_leaves_the_one_before_or_a_whole_new_one(tmp_path, save, kill_at, event, left, lines):
    earlier = save("short", 900)
    kill_at(event, lambda: save("short", 1800))
    there = sorted(path.name.removeprefix("short-1_800tok") for path in earlier.parent.glob("short-1_800tok*"))
    assert there == left
    said = []
    newest = newest_checkpoint(tmp_path, said.append)
    assert newest == (checkpoint_path(tmp_path, "short", 1800) if event == "save_after" else earlier)
    assert len(said) == lines
    again = save("short", 1800)
    assert newest_checkpoint(tmp_path, said.append) == again
    assert load_checkpoint(again).clock_tokens == 1800


def test_a_kill_in_writing_one_anew_does_not_pass_off_the_old_sidecar(tmp_path, save, kill_at):
    earlier = save("short", 900)
    save("short", 1800)
    kill_at("save_before_sidecar", lambda: save("short", 1800, more="other content"))
    said = []
    assert newest_checkpoint(tmp_path, said.append) == earlier
    assert "bytes, should be" in said[0] or "sha256" in said[0]


def test_a_save_that_cannot_be_written_leaves_earlier_ones(tmp_path, save):
    good = save("short", 900)
    (tmp_path / "checkpoints" / "context").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match=r"cannot write .*context-1_800tok\.pt: File exists; .* are free\n.*free"):
        save("context", 1800)
    assert newest_checkpoint(tmp_path, say_nothing) == good


def test_a_folder_that_is_read_only_is_an_error_that_leaves_earlier_ones(tmp_path, save, not_root):
    good = save("short", 900)
    good.parent.chmod(0o500)
    with pytest.raises(CheckpointError, match=r"cannot write .*: Permission denied"):
        save("short", 1800)
    good.parent.chmod(0o700)
    assert newest_checkpoint(tmp_path, say_nothing) == good


_FILL = """
import sys, torch
from pathlib import Path
from padless.checkpoint import Checkpoint, checkpoint_path, newest_checkpoint, save_checkpoint
from padless.errors import CheckpointError
folder = Path(sys.argv[1])
for clock in range(1000, 9000, 1000):
    meta = {"phase": "short", "clock_tokens": clock, "step": 1}
    checkpoint = Checkpoint({"w": torch.ones(300_000)}, None, meta)
    try:
        save_checkpoint(checkpoint_path(folder, "short", clock), checkpoint, "hash")
    except CheckpointError as error:
        print(error.cause)
        break
print(*sorted(path.name for path in (folder / "checkpoints" / "short").iterdir()))
print(newest_checkpoint(folder, print).name)
"""


def test_a_full_disk_is_an_error_that_leaves_the_last_good_one_and_no_partial(tmp_path):
    """On a real disk of 4 MB: three checkpoints of 1.2 MB fit."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=4m tmpfs {disk}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False, capture_output=True).returncode:
        pytest.skip("no disk of our own can be mounted here")
    fill = f'{mount} && exec "$0" -c "$1" {disk}'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", fill, sys.executable, _FILL], check=True, capture_output=True, text=True
    )
    error, files, newest = done.stdout.splitlines()
    assert "short-4_000tok.pt: No space left on device; it needs about 2.25 MB, " in error
    assert error.endswith("KB are free")
    assert files.split() == [f"short-{clock}_000tok.{kind}" for clock in (1, 2, 3) for kind in ("json", "pt")]
    assert newest == "short-3_000tok.pt"


def test_what_is_not_the_disks_fault_keeps_its_traceback(tmp_path, small):
    shared = torch.ones(4)
    model = {"a": shared, "b": shared.view(torch.int32)}
    with pytest.raises(RuntimeError, match="view the same data as different types"):
        save_checkpoint(tmp_path / "x.pt", Checkpoint(model, None, small().meta), "hash")
    assert list(tmp_path.iterdir()) == []


def test_what_this_version_would_not_load_is_not_saved(tmp_path, small):
    model = {"a": torch.ones(4).to(torch.float8_e4m3fn)}
    with pytest.raises(ValueError, match=r"x\.pt would be a checkpoint that does not load: it would call torch"):
        save_checkpoint(tmp_path / "x.pt", Checkpoint(model, None, small().meta), "hash")
    assert list(tmp_path.iterdir()) == []


def test_sidecar_fields_keep_their_order_for_those_who_read_them():
    assert [*Sidecar.__dataclass_fields__][:8] == [
        "format_version", "file", "size_bytes", "sha256", "phase", "clock_tokens", "step", "config_hash"
    ]  # fmt: skip
