"""The folder of a run: resolved config, lineage, metrics. Rank 0 writes, all ranks know the paths."""

import importlib.metadata
import json
import platform
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from padless.config.load import to_yaml
from padless.config.schema import Config
from padless.data.durable import write_durably
from padless.data.preflight import TOKENIZER_FILES, PreparedData
from padless.errors import CheckpointError
from padless.schedule.difference import results_difference
from padless.train.callbacks.metrics import MetricsFile
from padless.train.handover import StartState

_PACKAGES = ("padless", "torch", "mosaicml", "mosaicml-streaming", "transformers", "torch-optimi")


class RunFolder:
    """Files that describe one run.

    Args:
        path: the folder; made if missing.
        is_leader: whether this rank writes.
    """

    def __init__(self, path: Path, is_leader: bool) -> None:
        self.path, self._is_leader = path, is_leader
        path.mkdir(parents=True, exist_ok=True)
        self.metrics = MetricsFile(path / "metrics.jsonl", is_leader)

    def refuse_other_config(self, meta: dict[str, Any], config: Config, data: PreparedData) -> None:
        """Stop if the checkpoint with these facts had settings or data that gave other results up to its clock.

        Raises:
            CheckpointError: names each setting with its old and new value.
        """
        different = results_difference(meta["config"], config, int(meta["clock_tokens"]))
        different += [
            f"data of stream {name!r}: {meta['data'].get(name)} -> {digest}"
            for name, digest in data.hashes.items()
            if meta["data"].get(name, digest) != digest
        ]
        if different:
            raise CheckpointError(
                f"{self.path} belongs to another config; old -> new: " + "; ".join(different),
                "set these back, or choose another run.name for a new run",
            )

    @property
    def tokenizer(self) -> Path:
        """The run's own copy of its tokenizer, which exports take."""
        return (self.path / "tokenizer").resolve()

    def begin(self, config: Config, start: StartState, data: PreparedData, world_size: int) -> None:
        """Write the resolved config, a copy of the tokenizer and a line of lineage."""
        if not self._is_leader:
            return
        for name in TOKENIZER_FILES:
            if (data.tokenizer_folder / name).exists():
                write_durably(self.tokenizer / name, (data.tokenizer_folder / name).read_bytes())
        write_durably(self.path / "config.yaml", to_yaml(config).encode())
        event = "start" if start.clock_tokens == 0 else "resume"
        self.note(event, start.clock_tokens, start.origin, world_size=world_size, **_environment())

    def note(self, event: str, clock_tokens: int, detail: str, **facts: Any) -> None:
        """Append one line to ``lineage.jsonl``."""
        if not self._is_leader:
            return
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"event": event, "clock_tokens": clock_tokens, "detail": detail, "time": now, **facts}
        with (self.path / "lineage.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")


def _environment() -> dict[str, Any]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "versions": versions,
        "git": _git_commit(),
    }


def _git_commit() -> str | None:
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return described.stdout.strip() or None
