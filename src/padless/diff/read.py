"""Two runs' files, read as a stranger's: bounded in size, JSON and plain YAML only, odd lines counted and left out."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from padless.config.schema import Config
from padless.config.stored import read_stored_yaml
from padless.data.json_file import parse_object
from padless.errors import CheckpointError, ConfigError
from padless.run_files import CONFIG, LINEAGE, METRICS

RUNS = Path("runs")
_MAX_LINE_BYTES = 1 << 20
_MAX_FILE_BYTES = {LINEAGE: 64 << 20, METRICS: 4 << 30}
_MAX_COUNT = 1 << 63
_EVENT = b'{"event":'  # how a line of the lineage begins
_REMEDY = "give run folders that padless wrote, or names of runs under runs/"


@dataclass(frozen=True, slots=True)
class Step:
    """One optimizer step, as ``metrics.jsonl`` has it."""

    tokens: int  # the clock after it
    step: int
    phase: str
    loss: float | None  # None where it was not finite
    blocks: str  # digest of the blocks it trained on
    real_tokens: float
    seconds: float


@dataclass(frozen=True)
class Run:
    """What the files of one run say. Steps and validations are in the order of the clock, one for each clock."""

    folder: Path
    config: Config
    lineage: list[dict[str, Any]]
    steps: list[Step]
    validation: dict[int, float]  # clock -> loss
    unread_lines: int

    @property
    def branch(self) -> tuple[int, str] | None:
        """Clock at which it branches off another run, and the file it does so from; None for a run of its own."""
        starts = [line for line in self.lineage if line.get("event") in ("start", "branch")]
        line = starts[-1] if starts else {}  # one that was killed before its first checkpoint starts again
        clock = line.get("clock_tokens")
        return (clock, str(line.get("detail"))) if line.get("event") == "branch" and _is_count(clock) else None

    @property
    def begin_tokens(self) -> int:
        """Clock after which its steps are compared: 0, that of its branch, or just before the first in its metrics."""
        if self.branch is not None:
            return self.branch[0]
        first = self.steps[0]
        return 0 if first.step <= 1 else first.tokens - 1


def read_run(name: str) -> Run:
    """Return the run at a path, or of that name under ``runs/``.

    Raises:
        ConfigError: there is no such folder, or its configuration cannot be used.
        CheckpointError: lineage or metrics are missing or too large, or no step has been written.
    """
    folders = [path for path in (Path(name), RUNS / name) if path.is_dir()]
    if not folders:
        raise ConfigError(f"there is no run folder {name}, nor {RUNS / name}", _REMEDY)
    folder = next((path for path in folders if (path / CONFIG).exists()), None)
    if folder is None:
        raise ConfigError(f"{folders[0]} is not a run folder: it has no {CONFIG}", _REMEDY)
    config = _read_config(folder / CONFIG)
    lineage = list(_json_lines(folder / LINEAGE))
    steps: dict[int, Step] = {}
    validation: dict[int, float] = {}
    unread = sum(line is None for line in lineage)
    for line in _json_lines(folder / METRICS):
        step, evaluation = _step_of(line or {}), _validation_of(line or {})
        if step is not None:
            steps[step.tokens] = step
        elif evaluation is not None:
            validation[evaluation[0]] = evaluation[1]
        else:
            unread += 1
    if not steps:
        remedy = "let the run train at least one step before comparing it"
        raise CheckpointError(f"{folder / 'metrics.jsonl'} has no step", remedy)
    return Run(
        folder,
        config,
        [line for line in lineage if line is not None],
        [steps[clock] for clock in sorted(steps)],
        {clock: validation[clock] for clock in sorted(validation)},
        unread,
    )


def _read_config(path: Path) -> Config:
    try:
        config = read_stored_yaml(path)
    except ConfigError as error:
        if str(path) in error.cause:
            raise
        raise ConfigError(f"{path}: {error.cause}", error.remedy) from error
    if sorted(config.phase_order) != sorted(config.phases):
        raise ConfigError(f"{path}: phase_order does not name each of its phases once", _REMEDY)
    return config


def _json_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield each line's object; None for a line that is none, is cut off, or is longer than 1 MiB.

    An event that was added behind one that a kill cut off, on the same line, is yielded after it.

    Raises:
        CheckpointError: the file is missing, cannot be read, or is larger than any that padless writes.
    """
    try:
        size, limit = path.stat().st_size, _MAX_FILE_BYTES[path.name]
        if size > limit:
            raise CheckpointError(f"{path} has {size:_} bytes, padless reads at most {limit:_}", _REMEDY)
        with path.open("rb") as file:
            while text := file.readline(_MAX_LINE_BYTES):
                is_too_long = len(text) == _MAX_LINE_BYTES and not text.endswith(b"\n")
                while is_too_long and (rest := file.readline(_MAX_LINE_BYTES)):
                    if rest.endswith(b"\n"):
                        break
                found = None if is_too_long else parse_object(text)
                yield found
                if found is None and not is_too_long and (behind := text.rfind(_EVENT)) > 0:
                    yield parse_object(text[behind:])
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}", _REMEDY) from error


def _step_of(line: dict[str, Any]) -> Step | None:
    """Return a line of ``metrics.jsonl`` as a step, None if it is not one."""
    tokens, step, phase, blocks = (line.get(key) for key in ("tokens", "step", "phase", "blocks"))
    if "loss" not in line or not _is_count(tokens) or not _is_count(step):
        return None
    if not isinstance(phase, str) or not isinstance(blocks, str):
        return None
    loss = line["loss"]
    if loss is not None and not isinstance(loss, float) and not _is_count(loss):
        return None
    real_tokens, seconds = line.get("real_tokens"), line.get("seconds")
    return Step(
        tokens,
        step,
        phase,
        float(loss) if _is_number(loss) else None,
        blocks,
        float(real_tokens) if _is_number(real_tokens) else 0.0,
        float(seconds) if _is_number(seconds) else 0.0,
    )


def _validation_of(line: dict[str, Any]) -> tuple[int, float] | None:
    """Return (clock, loss) of a line of ``metrics.jsonl`` that is a validation, None if it is not one."""
    tokens, loss = line.get("tokens"), line.get("eval_loss")
    return (tokens, float(loss)) if _is_count(tokens) and _is_number(loss) else None


def _is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number, not negative where it is whole."""
    return (type(value) is float and math.isfinite(value)) or _is_count(value)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < _MAX_COUNT
