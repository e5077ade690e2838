"""The checkpoints that are merged: where they are, what they say of themselves, and whether they fit each other."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from padless.checkpoint import Checkpoint, CheckpointRow, list_checkpoints, open_checkpoint
from padless.checkpoint.named import checkpoint_by_name
from padless.config.schema import Config, PhaseConfig
from padless.data.durable import sha256_of_file
from padless.errors import CheckpointError, ConfigError, ModelError
from padless.run_files import METRICS, TOKENIZER
from padless.train.callbacks.metrics import read_metrics

RUNS = Path("runs")
_NOT_OF_THE_WEIGHTS = ("attention_out_dropout", "mlp_dropout", "embedding_dropout", "init_std", "init_cutoff_factor")


@dataclass(frozen=True)
class Source:
    """One checkpoint of a merge, without its tensors."""

    path: Path
    sha256: str
    config: Config
    phase_name: str
    clock_tokens: int
    step: int
    train_seconds: float
    tokenizer_sha256: str
    tokenizer_folder: str
    data: dict[str, str]  # hash of each stream's blocks

    @property
    def phase(self) -> PhaseConfig:
        """The phase the weights were saved in."""
        return self.config.phases[self.phase_name]


def find_checkpoint(name: str) -> Path:
    """Return the checkpoint that an argument names: a file, the newest whole one of a run, or one by its short name.

    Raises:
        CheckpointError: there is none.
    """
    for path in (Path(name), RUNS / name):
        if path.is_file():
            return path
        if path.is_dir():
            rows = _whole(path)
            if rows:
                return rows[-1].path
    named = checkpoint_by_name(name)
    if named is not None:
        return named
    raise CheckpointError(
        f"{name} is neither a checkpoint file nor the folder of a run with a whole checkpoint",
        "give .pt files from a run's checkpoints/ folder, run folders, or names of runs under runs/",
    )


def run_folder(run: str) -> Path:
    """Return the folder of a run that is given by it or by its name under ``runs/``; as given where neither is one."""
    return next((path for path in (Path(run), RUNS / run) if path.is_dir()), Path(run))


def find_candidates(run: str, count: int) -> list[Path]:
    """Return the whole checkpoints of a run's last phase, oldest first: what the best are picked from, and its last.

    Args:
        run: folder of the run, or its name under ``runs/``.
        count: how many are to be picked besides the last.

    Raises:
        CheckpointError: there are not as many.
    """
    folder = run_folder(run)
    rows = _whole(folder)
    last = [row.path for row in rows if row.phase == rows[-1].phase]
    if len(last) <= count:
        where = f"phase {rows[-1].phase!r}, its last" if rows else "any phase"
        raise CheckpointError(
            f"best={count}: {folder} has {max(0, len(last) - 1)} whole checkpoint(s) in {where}, besides the newest",
            "keep more of them (keep_every_tokens of the phase, or run.keep_newest_checkpoints=null), or ask for fewer",
        )
    return last


def pick_best(losses: Mapping[Path, float], count: int) -> list[Path]:
    """Return the ``count`` checkpoints with the lowest loss, best first, and the last; of equal ones the later.

    Args:
        losses: validation loss of each checkpoint, oldest first; the last one is in any case.
        count: how many besides the last.
    """
    *others, last = losses
    return [*sorted(others, key=lambda path: (losses[path], -others.index(path)))[:count], last]


def recorded_losses(candidates: Sequence[Path]) -> dict[Path, float]:
    """Return the loss of each checkpoint as its run measured it, in order; the last one's is not looked at.

    A checkpoint records the last validation before it. That is its own only where the run validated at its very clock,
    which the run's metrics say.

    Args:
        candidates: of one run, oldest first.

    Raises:
        CheckpointError: one was not validated where it was saved.
    """
    run_folder = candidates[-1].parents[2]
    lines = read_metrics(run_folder / METRICS)
    measured = {line["tokens"]: line["eval_loss"] for line in lines if "eval_loss" in line}  # the latest of a clock
    losses: dict[Path, float] = {}
    for path in candidates[:-1]:
        loss = measured.get(read_source(path)[0].clock_tokens)
        if loss is None:
            raise CheckpointError(
                f"{path.name} was not validated where it was saved (metrics.jsonl of {run_folder}): its recorded loss "
                "is that of an earlier step",
                "leave evaluate=false out, so that each is measured; or train with eval_every_tokens=save_every_tokens",
            )
        losses[path] = loss
    return {**losses, candidates[-1]: math.inf}


def _whole(folder: Path) -> list[CheckpointRow]:
    return [row for row in list_checkpoints(folder, read_files=False) if row.can_be_taken]


def read_source(path: Path) -> tuple[Source, Checkpoint]:
    """Return what a checkpoint says of itself, and the checkpoint.

    Raises:
        CheckpointError: it cannot be read, or does not make sense.
    """
    saved, config = open_checkpoint(path)
    meta = saved.meta
    source = Source(
        path=path,
        sha256=sha256_of_file(path),
        config=config,
        phase_name=meta["phase"],
        clock_tokens=saved.clock_tokens,
        step=saved.step,
        train_seconds=float(meta["train_seconds"]),
        tokenizer_sha256=meta["tokenizer_sha256"],
        tokenizer_folder=str(_tokenizer_folder(path, meta["tokenizer_folder"])),
        data=dict(meta["data"]),
    )
    return source, saved


def _tokenizer_folder(path: Path, recorded: str) -> Path:
    """Return the tokenizer's folder in the checkpoint's own run, which may have moved, or where it was at saving."""
    run_folder = next(iter(path.resolve().parents[2:3]), None)
    if run_folder is not None and (run_folder / TOKENIZER / "tokenizer.json").is_file():
        return run_folder / TOKENIZER
    return Path(recorded)


def refuse_too_few(paths: Sequence[Path]) -> None:
    """Refuse what is no merge.

    Raises:
        ConfigError: fewer than two checkpoints, or one of them twice.
    """
    if len(paths) < 2:
        raise ConfigError(
            f"{len(paths)} checkpoint(s) given ({', '.join(map(str, paths)) or 'none'}), a merge needs two or more",
            "give several, or best=3 run=<folder>; padless export takes a single one",
        )
    seen: dict[Path, Path] = {}
    for path in paths:
        if path.resolve() in seen:
            raise ConfigError(
                f"{path} and {seen[path.resolve()]} are the same checkpoint",
                "name each once, and give it more weight with weights=...",
            )
        seen[path.resolve()] = path


def refuse_misfit(first: Source, other: Source) -> None:
    """Refuse weights that mean something else than the first checkpoint's.

    Raises:
        ModelError: names the setting that differs, with both values.
    """
    here, there = _meaning(first), _meaning(other)
    name = next((name for name in here if here[name] != there[name]), None)
    if name is not None:
        raise ModelError(
            f"{name} differs: {here[name]} in {first.path}, {there[name]} in {other.path}",
            "merge checkpoints of one model, tokenizer and length: of one run, or of branches of one run",
        )


def _meaning(source: Source) -> dict[str, object]:
    """Return the settings that give weights their meaning. Dropout and how they began do not."""
    model = dataclasses.asdict(source.config.model)
    return {
        **{f"model.{name}": value for name, value in model.items() if name not in _NOT_OF_THE_WEIGHTS},
        "rope.global_theta": source.phase.rope.global_theta,
        "rope.local_theta": source.phase.rope.local_theta,
        "max_seq_len": source.phase.max_seq_len,
        "tokenizer": source.tokenizer_sha256[:12],
    }
