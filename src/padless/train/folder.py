"""The folder of a run: config, lineage, metrics, tokenizer, blocks left out. Rank 0 writes, all know the paths."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from padless.checkpoint.facts import is_stretch
from padless.config.load import to_yaml
from padless.config.schema import Config
from padless.config.stored import read_stored_yaml
from padless.data.durable import write_durably
from padless.data.preflight import TOKENIZER_FILES, PreparedData
from padless.errors import CheckpointError, ConfigError
from padless.run_files import CONFIG, METRICS, SKIPPED, TOKENIZER
from padless.schedule.skipped import SkippedRange, merged
from padless.train.callbacks.metrics import MetricsFile
from padless.train.changes import all_changes
from padless.train.handover import StartState
from padless.train.lineage import environment, last_saved_clock, last_world_size, note


class RunFolder:
    """Files that describe one run.

    Args:
        path: the folder; made if missing.
        is_leader: whether this rank writes.
    """

    def __init__(self, path: Path, is_leader: bool) -> None:
        self.path, self._is_leader = path, is_leader
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"{path}: the run folder cannot be written ({error.strerror})",
                "make it writable, or choose another run.folder",
            ) from error
        self.metrics = MetricsFile(path / METRICS, is_leader)

    @property
    def tokenizer(self) -> Path:
        """The run's own copy of its tokenizer, which exports take."""
        return (self.path / TOKENIZER).resolve()

    def begin(
        self,
        config: Config,
        start: StartState,
        data: PreparedData,
        hosts: list[str],
        event: str,
        changes: list[str],
        parent_facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the resolved config, a copy of the tokenizer and lines of lineage.

        Args:
            config: the run's.
            start: what it begins with.
            data: its streams.
            hosts: host of each rank.
            event: start, branch or resume.
            changes: accepted changes of the past (resume), or what is not the parent's (branch).
            parent_facts: what is known of the weights that the run continues; None where it continues none.
        """
        if not self._is_leader:
            return
        self._note_changes(config, start, len(hosts))
        for name in TOKENIZER_FILES:
            if (data.tokenizer_folder / name).exists():
                write_durably(self.tokenizer / name, (data.tokenizer_folder / name).read_bytes())
        write_durably(self.path / CONFIG, to_yaml(config).encode())
        facts: dict[str, Any] = {
            "world_size": len(hosts),
            "hosts": sorted(set(hosts)),
            "data": data.hashes,
            **(parent_facts or {}),
        }
        if changes:
            facts["changed" if event == "branch" else "accepted"] = changes
        self.note(event, start.clock_tokens, start.origin, **facts, **environment())

    def _note_changes(self, config: Config, start: StartState, world_size: int) -> None:
        """Note another number of ranks and other settings than at the start before."""
        if not (self.path / CONFIG).exists():
            return
        ranks = last_world_size(self.path)
        if ranks not in (None, world_size):
            self.note("ranks", start.clock_tokens, f"{ranks} -> {world_size}")
        try:
            changes = all_changes(read_stored_yaml(self.path / CONFIG), config)
        except ConfigError as error:
            changes = [f"the config before cannot be read: {error.cause}"]
        if changes:
            self.note("settings", start.clock_tokens, f"{len(changes)} changed", changes=changes)

    def note(self, event: str, clock_tokens: int, detail: str, **facts: Any) -> None:
        """Append one line of lineage."""
        if self._is_leader:
            note(self.path, event, clock_tokens, detail, **facts)

    def refuse_lost_checkpoints(self) -> None:
        """Stop if this run had checkpoints and there is none now: going on would begin again from nothing, in silence.

        Raises:
            CheckpointError: lineage or status name a checkpoint of this run.
        """
        clock_tokens = last_saved_clock(self.path)
        if clock_tokens > 0:
            raise CheckpointError(
                f"{self.path} had a checkpoint at {clock_tokens:_} tokens, and there is none now",
                "restore its checkpoints/ from a backup, or choose another run.name to start over",
            )

    def read_skipped(self) -> tuple[SkippedRange, ...]:
        """Return the blocks that rewinds of this run left out of its data.

        Raises:
            CheckpointError: the file is damaged; going on without it would train on them.
        """
        path = self.path / SKIPPED
        if not path.exists():
            return ()
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            if type(tree) is not list or not all(is_stretch(each) for each in tree):
                raise ValueError("not [phase, first block, number of blocks] each")
            return tuple(SkippedRange(*each) for each in tree)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{path} is not a list of blocks left out: {str(error).splitlines()[0]}",
                "restore it from a backup; its rewinds are also in lineage.jsonl",
            ) from error

    def write_skipped(self, ranges: tuple[SkippedRange, ...]) -> None:
        """Keep the blocks left out, before the run goes back for them."""
        if self._is_leader:
            rows = [[each.phase, each.first_block, each.num_blocks] for each in merged(ranges)]
            write_durably(self.path / SKIPPED, json.dumps(rows).encode())
