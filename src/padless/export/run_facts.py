"""What a run's own files say for the model card: on what it ran, and how it did at the end of each phase."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padless.data.json_file import read_lines
from padless.run_files import LINEAGE, METRICS
from padless.units import approximate_tokens

_STARTS = ("start", "branch", "resume")
_BY_STREAM = "eval_loss_"


@dataclass(frozen=True)
class RunFacts:
    """Of a run, up to a clock."""

    hardware: tuple[str, ...] = ()  # each set of ranks and devices it ran on, in order
    eval_streams: tuple[str, ...] = ()
    eval_rows: tuple[tuple[str, ...], ...] = ()  # phase, tokens, loss, loss of each stream; the last of each phase


def facts_of_run(folder: Path, clock_tokens: int) -> RunFacts:
    """Return what ``lineage.jsonl`` and ``metrics.jsonl`` say of a run up to a clock; what is not there is left out."""
    starts = [line for line in _lines(folder / LINEAGE, clock_tokens) if line.get("event") in _STARTS]
    hardware = dict.fromkeys(text for text in map(_hardware, starts) if text)
    evals = [line for line in _lines(folder / METRICS, clock_tokens) if _is_number(line.get("eval_loss"))]
    last = {str(line.get("phase")): line for line in evals}
    streams = tuple(
        sorted({key.removeprefix(_BY_STREAM) for line in last.values() for key in line if key.startswith(_BY_STREAM)})
    )
    rows = []
    for phase, line in last.items():
        losses = [line.get("eval_loss"), *(line.get(_BY_STREAM + name) for name in streams)]
        cells = [f"{loss:.4f}" if _is_number(loss) else "" for loss in losses]
        rows.append((phase, approximate_tokens(line["tokens"]), *cells))
    return RunFacts(tuple(hardware), streams, tuple(rows))


def _hardware(line: dict[str, Any]) -> str | None:
    ranks, hosts, device = line.get("world_size"), line.get("hosts"), line.get("device")
    if type(ranks) is not int:
        return None
    count = len(hosts) if isinstance(hosts, list) else 1
    where = f"{ranks} rank{'s' * (ranks > 1)} on {count} machine{'s' * (count > 1)}"
    return f"{where}, {device}" if isinstance(device, str) else where


def _lines(path: Path, clock_tokens: int) -> Iterator[dict[str, Any]]:
    """Give the whole lines of a file that are not beyond a clock."""
    for line in read_lines(path):
        clock = line.get("tokens", line.get("clock_tokens"))
        if type(clock) is int and clock <= clock_tokens:
            yield line


def _is_number(value: object) -> bool:
    return type(value) in (int, float)
