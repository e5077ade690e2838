"""``padless merge A.pt B.pt ... out=merged``: the mean of checkpoints, and how each of them and the mean does.

The checkpoints are read one at a time: once to compare them, once to evaluate each, once to add them up. So a misfit is
found before any data is opened, and the best of a run are picked by what is measured here, on the same blocks.
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from padless.checkpoint import load_checkpoint
from padless.config.load import unknown_word
from padless.errors import ConfigError
from padless.merge.average import WeightedMean, shares_of
from padless.merge.evaluate import Evaluation, Score, evaluation_config, is_override
from padless.merge.sources import (
    Source,
    find_candidates,
    find_checkpoint,
    pick_best,
    read_source,
    recorded_losses,
    refuse_misfit,
    refuse_too_few,
)
from padless.merge.write import Parent, clock_of, refuse_out, write_merge
from padless.saying import say_on
from padless.train.marks import mark_best
from padless.units import approximate_tokens

_USAGE = (
    "write: padless merge <checkpoint or run> <checkpoint or run> ... out=<file.pt or folder> [weights=0.5,0.25,0.25], "
    "or best=3 run=<run> out=..."
)
_KEYS = ("out", "weights", "best", "run", "evaluate")


@dataclass(frozen=True)
class MergeRequest:
    """What the command line asks for."""

    out: Path
    names: tuple[str, ...] = ()  # checkpoints or runs, in order
    weights: tuple[float, ...] | None = None  # None for equal shares
    best: int | None = None
    run: str | None = None
    evaluate: bool = True
    overrides: dict[str, str] = field(default_factory=dict)  # of data.streams and eval

    def candidates(self) -> list[Path]:
        """Return the checkpoints to merge, in order; with ``best`` those to pick from.

        Raises:
            CheckpointError: one is not there.
        """
        if self.best is not None and self.run is not None:
            return find_candidates(self.run, self.best)
        return [find_checkpoint(name) for name in self.names]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    checkpoint: str
    tokens: int  # its clock
    share: float | None  # in the mean; 1 for the mean itself; None where there is no mean
    score: Score | None


def merge_command(arguments: list[str], as_json: bool) -> None:
    """Average checkpoints, write the mean, and print how each and the mean does.

    Args:
        arguments: ``.pt`` files and run folders (or names under ``runs/``), of which the newest checkpoint is taken;
            ``out=`` a file ending in .pt or a folder; ``weights=`` a share for each, in order; instead of checkpoints
            ``best=N run=RUN``; ``evaluate=false``; other validation data by full names, such as
            ``data.streams.main.local=...`` or ``eval.max_blocks=256``.
        as_json: print one JSON object instead of lines.

    Raises:
        PadlessError: an argument is not understood, checkpoints do not fit each other, or data is missing.
    """
    request = parse(arguments)
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        console = Console()
        path, rows = merge(request, say_on(console))
    if as_json:
        content = {
            "ok": True,
            "out": str(path),
            "clock_tokens": rows[-1].tokens,
            "rows": [plain_row(row) for row in rows],
        }
        sys.stdout.write(json.dumps(content) + "\n")
        return
    print_rows(rows, console, "merge: validation")
    console.print(f"merged into {path}", markup=False, highlight=False, soft_wrap=True)


def merge(request: MergeRequest, say: Callable[[str], None]) -> tuple[Path, list[Row]]:
    """Write the mean that is asked for; return its checkpoint, and a row for each parent and for the mean, last.

    Args:
        request: what to merge, and where to.
        say: prints one line.

    Raises:
        PadlessError: checkpoints do not fit each other, data is missing, or there is something at ``out``.
    """
    refuse_out(request.out)
    candidates = request.candidates()
    refuse_too_few(candidates)
    shares_of(request.weights, len(candidates))
    sources = _read_all(candidates)
    evaluation = _open_evaluation(request, sources[candidates[-1]], say) if request.evaluate else None
    scores = {} if evaluation is None else {path: evaluation.measure(load_checkpoint(path).model) for path in sources}
    paths = candidates if request.best is None else _pick(request.best, candidates, scores, say)
    shares = shares_of(request.weights, len(paths))
    parents = [Parent(sources[path], share) for path, share in zip(paths, shares, strict=True)]
    clocks = sorted({parent.source.clock_tokens for parent in parents})
    if len(clocks) > 1:
        say(f"note: clocks from {clocks[0]:_} to {clocks[-1]:_} tokens; the merge takes the highest")
    weights = _mean(parents)
    score = None if evaluation is None else evaluation.measure(weights)
    path = write_merge(request.out, weights, parents, None if score is None else score.loss)
    rows = [_row(parent, scores.get(parent.source.path)) for parent in parents]
    return path, [*rows, Row("the merge", clock_of(parents), 1.0, score)]


def _read_all(paths: Sequence[Path]) -> dict[Path, Source]:
    """Return what each checkpoint says of itself; they fit each other."""
    sources: dict[Path, Source] = {}
    for path in paths:
        sources[path] = read_source(path)[0]
        refuse_misfit(sources[paths[0]], sources[path])
    return sources


def _open_evaluation(request: MergeRequest, source: Source, say: Callable[[str], None]) -> Evaluation:
    config = evaluation_config(source.config, request.overrides)
    return Evaluation(config, source.phase.rope, source.tokenizer_sha256, say)


def _pick(
    count: int, candidates: Sequence[Path], scores: Mapping[Path, Score], say: Callable[[str], None]
) -> list[Path]:
    if not scores:
        return pick_best(recorded_losses(candidates), count)
    picked = pick_best({path: scores[path].loss for path in candidates}, count)
    left_out = [f"{path.stem} {scores[path].loss:.4f}" for path in candidates if path not in picked]
    if left_out:
        say(f"note: measured and left out: {', '.join(left_out)}")
    return picked


def _mean(parents: Sequence[Parent]) -> dict[str, Tensor]:
    mean = WeightedMean()
    for parent in parents:
        mean.add(load_checkpoint(parent.source.path).model, parent.share)
    return mean.result()


def _row(parent: Parent, score: Score | None) -> Row:
    return Row(str(parent.source.path), parent.source.clock_tokens, parent.share, score)


def print_rows(rows: Sequence[Row], console: Console, title: str) -> None:
    """Print one line a row, with the best figure of each column marked."""
    streams = list(dict.fromkeys(name for row in rows if row.score is not None for name in row.score.loss_by_stream))
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("checkpoint", overflow="fold")
    headings, columns = ["tokens"], [[approximate_tokens(row.tokens) for row in rows]]
    shares = [f"{row.share:.3g}" for row in rows if row.share is not None]
    if shares:
        headings += ["share"]
        columns += [shares]
    scores = [row.score for row in rows if row.score is not None]
    if scores:
        headings += ["loss", "accuracy", *streams]
        columns += [mark_best([score.loss for score in scores], ".4f")]
        columns += [mark_best([score.accuracy for score in scores], ".2%", highest=True)]
        columns += [mark_best([score.loss_by_stream[name] for score in scores], ".4f") for name in streams]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for number, name in enumerate(_short_names([row.checkpoint for row in rows])):
        table.add_row(escape(name), *(column[number] for column in columns))
    console.print(table, highlight=False)


def _short_names(names: Sequence[str]) -> list[str]:
    """Return file names alone, without the .pt, where they tell the checkpoints apart."""
    short = [Path(name).name.removesuffix(".pt") for name in names]
    return short if len(set(short)) == len(names) else list(names)


def plain_row(row: Row) -> dict[str, object]:
    """Return a row as it stands in JSON."""
    score = {} if row.score is None else dataclasses.asdict(row.score)
    share = {} if row.share is None else {"share": row.share}
    return {"checkpoint": row.checkpoint, "tokens": row.tokens, **share, **score}


def parse(arguments: Sequence[str]) -> MergeRequest:
    """Return what a command line asks for.

    Raises:
        ConfigError: a word is not understood, missing, or has no effect.
    """
    names: list[str] = []
    values: dict[str, str] = {}
    overrides: dict[str, str] = {}
    for word in arguments:
        key, separator, value = word.partition("=")
        if separator and key in _KEYS:
            values[key] = value
        elif separator and is_override(key):
            overrides[key] = value
        elif separator and not Path(word).exists():
            raise unknown_word(word, _KEYS, _USAGE)
        else:
            names.append(word)
    if not values.get("out"):
        raise ConfigError("out has no value", _USAGE)
    out = _out(values["out"])
    evaluate = _truth(values.get("evaluate", "true"))
    if overrides and not evaluate:
        key = next(iter(overrides))
        raise ConfigError(f"{key}={overrides[key]} has no effect with evaluate=false", "remove one of the two")
    best = _best(values, names)
    weights = None if "weights" not in values else _numbers(values["weights"])
    return MergeRequest(out, tuple(names), weights, best, values.get("run"), evaluate, overrides)


def _out(text: str) -> Path:
    """Return the file or folder to write; a name with another ending than .pt is a folder only where it ends in /."""
    out = Path(text)
    if out.suffix[1:2].isalpha() and out.suffix != ".pt" and not text.endswith("/"):
        raise ConfigError(
            f"out={text} ends in {out.suffix}, and a merge is a .pt file or a folder",
            f"write out={out.with_suffix('.pt')}, or out={out.with_suffix('')} for a folder",
        )
    return out


def _best(values: dict[str, str], names: Sequence[str]) -> int | None:
    if "best" not in values:
        if "run" in values:
            raise ConfigError(f"run={values['run']} has no effect without best=", _USAGE)
        return None
    if "run" not in values:
        raise ConfigError("best= picks the checkpoints of a run, and run= has no value", _USAGE)
    if names or "weights" in values:
        given = names[0] if names else f"weights={values['weights']}"
        raise ConfigError(f"{given} and best={values['best']} both say what is averaged", "give one of the two")
    if not values["best"].isdecimal() or int(values["best"]) < 1:
        raise ConfigError(f"best={values['best']} is not a number of checkpoints", "write e.g. best=3")
    return int(values["best"])


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ConfigError(f"evaluate={text} is neither true nor false", _USAGE)
    return text == "true"


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"weights={text} is not a list of numbers", "write e.g. weights=0.5,0.25,0.25") from None
