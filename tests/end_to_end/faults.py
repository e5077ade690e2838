"""A small run and a copy of its data to damage, disks to fill, canaries, and what the user of all this sees."""

import contextlib
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from here import copy_of, run_here
from runs import PREPARED, metrics, overrides, start

from padless.checkpoint import load_checkpoint
from padless.cli import main
from padless.data.manifest import read_manifest, write_manifest
from padless.data.mds import ValidationBlocks
from padless.data.mds_write import write_split

END = "12_000"
BARE = {
    "export.enabled": "false",
    "loggers.tensorboard": "false",
    "data.prepare_bundled": "false",
    "eval.max_blocks": 2,
}
SPLIT = Path("blocks") / "64" / "train"  # what the first phase reads
NEWEST, BEFORE = "short-12_288tok", "short-9_216tok"

_small: list[Path] = []


def small(folder: Path, **more: object) -> list[str]:
    """Arguments of a run of 16 steps with checkpoints on the way; it writes ``folder/smoke``."""
    return overrides(folder, **{"run.stop_after_tokens": END, **BARE, **more})


def small_run(tmp_path_factory) -> Path:
    """Return the folder of the undisturbed small run; the first test that asks pays for it."""
    if not _small:
        base = tmp_path_factory.mktemp("small")
        run_here(small(base))
        _small.append(base / "smoke")
    return _small[0]


def interrupted(undisturbed: Path, to: Path) -> Path:
    """Copy the small run as it was before its last checkpoint; return the folder it lies in."""
    copy_of(undisturbed, to / "smoke")
    for ending in (".pt", ".json"):
        (to / "smoke" / "checkpoints" / "short" / f"{NEWEST}{ending}").unlink()
    return to


def ends_as(undisturbed: Path, arguments: list[str], folder: Path) -> str:
    """Run to the end and require every loss and block of the undisturbed run; return what was printed."""
    output = run_here(arguments)
    assert metrics(folder / "smoke") == metrics(undisturbed)
    return output


def stream_at(folder: Path, name: str = "code") -> dict[str, object]:
    """Settings that read one stream from ``folder``."""
    return {f"data.streams.{name}.local": folder}


def rewrite_blocks(stream: Path, change: Callable, *, believed: bool) -> Path:
    """Write the shard of the first phase anew with changed blocks, all of the same size; return its path.

    Args:
        stream: the prepared folder.
        change: gets tokens and lengths of a block, and changes them in place.
        believed: whether the manifest is made to agree, as a stranger would.
    """
    manifest = read_manifest(stream)
    split = manifest.packed("code", stream, 64, "train")
    reader = ValidationBlocks(split)
    blocks = [(reader[number].tokens_T.copy(), reader[number].lengths_S.copy()) for number in range(len(reader))]
    for tokens_T, lengths_S in blocks:
        change(tokens_T, lengths_S)
    shards = write_split(stream / SPLIT, blocks, split.dtype)
    assert [(each.name, each.bytes) for each in shards] == [(each.name, each.bytes) for each in split.shards]
    if believed:
        change_split(stream, shards=shards)
    return stream / SPLIT / shards[0].name


def change_split(stream: Path, **fields: object) -> None:
    """Change what the manifest says of the first phase's split."""
    manifest = read_manifest(stream)
    splits = {**manifest.blocks["64"], "train": replace(manifest.blocks["64"]["train"], **fields)}
    write_manifest(stream, replace(manifest, blocks={**manifest.blocks, "64": splits}))


def edit_json(path: Path, change: Callable) -> None:
    """Change the tree in a JSON file in place."""
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


def flip_a_bit(path: Path, at: float = 0.7) -> None:
    """Flip one bit of a file, without changing its size or time."""
    found = path.stat()
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def seal(path: Path) -> None:
    """Make a checkpoint's sidecar agree with it, as a stranger would."""

    def agree(sidecar: dict) -> None:
        sidecar.update(size_bytes=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())

    edit_json(path.with_suffix(".json"), agree)


class Disk:
    """A small file system of its own."""

    def __init__(self, at: Path, size: str) -> None:
        at.mkdir()
        self.path = at
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "padless-test", str(at)], capture_output=True, text=True
        )
        if made.returncode:
            pytest.skip(f"a file system cannot be mounted here: {made.stderr.strip()}")

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True)

    def fill(self) -> Path:
        """Take every free byte; return the file that does."""
        path = self.path / "other-people's.data"
        with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        return path

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)


def prepared_copy(to: Path, name: str = "code") -> Path:
    """Copy one prepared stream, so that a test may damage it."""
    return copy_of(PREPARED / name, to / name)


def command_refusal(*arguments: object) -> str:
    """Run a ``padless`` command that has to be refused with exit code 2, and return the error as the user sees it."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(each) for each in arguments])
    error = err.getvalue()
    assert code == 2, out.getvalue() + error
    assert error.startswith("error: ")
    assert len(error.strip().splitlines()) == 2, "one line of cause, one of remedy"
    return error


@dataclass(frozen=True)
class Canary:
    """A file that a payload makes when it is executed."""

    path: Path

    def __reduce__(self) -> tuple:
        """What a pickle of this does when it is loaded."""
        return (os.system, (f"touch '{self.path}'",))

    def sings(self, code: str, *arguments: object) -> bool:
        """Open a file the unsafe way, in a process of its own; say whether the payload ran, and clean up."""
        assert not self.path.exists()
        subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, timeout=120)
        did = self.path.exists()
        self.path.unlink(missing_ok=True)
        return did


class PeakMemory:
    """The most memory that this process took within the block, beyond what it had at its begin."""

    grew_bytes = 0

    def __enter__(self) -> "PeakMemory":
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._before = _memory("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.grew_bytes = _memory("VmHWM") - self._before


def _memory(name: str) -> int:
    line = next(text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def content_of(checkpoint: Path) -> dict:
    """What a checkpoint file holds, to be changed and saved again."""
    saved = load_checkpoint(checkpoint)
    return {"format_version": 1, "model": saved.model, "optimizer": saved.optimizer, "meta": saved.meta}


def spoil_ids(tokens_T: np.ndarray, lengths_S: np.ndarray) -> None:
    """An id that no vocabulary of 2,048 has."""
    tokens_T[1] = 60_000


def spoil_lengths(tokens_T: np.ndarray, lengths_S: np.ndarray) -> None:
    """Segments that are one token less than there are."""
    lengths_S[lengths_S.argmax()] -= 1


class Rank:
    """A process that a launcher would start as one of several ranks, without the launcher, which would end them all."""

    def __init__(self, arguments: list[str], rank: int, ranks: int, port: int) -> None:
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "NODE_RANK": 0}
        names |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        self.process = start(arguments, env={name: str(value) for name, value in names.items()})
        self.name = f"rank {rank} (pid {self.process.pid} on {socket.gethostname()})"

    def end(self, within_s: float) -> tuple[int, str]:
        """Wait for its end, and return exit code and output."""
        output, _ = self.process.communicate(timeout=within_s)
        return self.process.returncode, output


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def shared_memory_of(pid: int) -> list[Path]:
    """Return the shared memory of a run's process that is alive or was killed: its owner files and segments."""
    found = []
    for owner in Path("/dev/shm").glob("padless-*.owner"):
        with contextlib.suppress(OSError, ValueError):
            if json.loads(owner.read_text())["pid"] == pid:
                digits = owner.stem.rpartition("-")[2]
                found += [owner, *Path("/dev/shm").glob(f"{digits}_*")]
    return sorted(found)


def file_locks_of(memory: list[Path]) -> list[Path]:
    """Return the file locks that lie in the temporary folder for shared memory."""
    digits = {path.name.partition("_")[0] for path in memory if not path.name.endswith(".owner")}
    return sorted(path for each in digits for path in Path(tempfile.gettempdir()).glob(f"{each}_*_filelock"))
