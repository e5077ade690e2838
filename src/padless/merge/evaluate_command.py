"""``padless evaluate <checkpoint> ...``: validation losses of checkpoints, side by side on the same blocks and masks.

Nothing is written. Blocks and masks are those of the first checkpoint's run; a checkpoint of another phase, run or
shape is measured with its own rotation and shape, as long as its tokenizer is the same.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from padless.checkpoint import load_checkpoint
from padless.checkpoint.named import whole_checkpoints
from padless.config.load import unknown_word
from padless.config.schema import Config, ModelConfig, RopeConfig
from padless.errors import CheckpointError, ConfigError
from padless.merge.command import Row, plain_row, print_rows
from padless.merge.evaluate import Evaluation, evaluation_config, is_override
from padless.merge.sources import Source, find_checkpoint, read_source, run_folder
from padless.saying import say_on

_USAGE = (
    "write: padless evaluate <checkpoint, run or name> ... [run=<run> for all of its checkpoints] "
    "[data.streams.<name>.local=...] [eval.<setting>=...]"
)


@dataclass(frozen=True)
class EvaluateRequest:
    """What the command line asks for."""

    names: tuple[str, ...] = ()  # checkpoints or runs, in order
    run: str | None = None  # every whole checkpoint of it
    overrides: dict[str, str] = field(default_factory=dict)  # of data.streams and eval

    def paths(self) -> list[Path]:
        """Return the checkpoints, in order and each once.

        Raises:
            CheckpointError: one is not there.
        """
        found = [find_checkpoint(name) for name in self.names]
        if self.run is not None:
            folder = run_folder(self.run)
            rows = whole_checkpoints(folder)
            if not rows:
                raise CheckpointError(
                    f"run={self.run}: {folder} has no whole checkpoint", f"look with `padless checkpoints {folder}`"
                )
            found += [row.path for row in rows]
        return list({path.resolve(): path for path in found}.values())


def evaluate_command(arguments: list[str], as_json: bool) -> None:
    """Measure checkpoints and print a line for each.

    Args:
        arguments: ``.pt`` files, run folders (the newest checkpoint of each), names such as ``base/short@1.2B``;
            ``run=RUN`` for every checkpoint of one; other validation data by full names, such as
            ``data.streams.main.local=...`` or ``eval.max_blocks=256``.
        as_json: print one JSON object instead of lines.

    Raises:
        PadlessError: an argument is not understood, a checkpoint or data is missing, or tokenizers differ.
    """
    request = parse(arguments)
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        console = Console()
        rows = evaluate(request, say_on(console))
    if as_json:
        sys.stdout.write(json.dumps({"ok": True, "rows": [plain_row(row) for row in rows]}) + "\n")
        return
    print_rows(rows, console, "validation")


def evaluate(request: EvaluateRequest, say: Callable[[str], None]) -> list[Row]:
    """Return a row for each checkpoint, in order.

    Args:
        request: what to measure, and on what.
        say: prints one line.

    Raises:
        PadlessError: a checkpoint or data is missing, or tokenizers differ.
    """
    paths = request.paths()
    sources = [read_source(path)[0] for path in paths]
    config = evaluation_config(sources[0].config, request.overrides)
    opened: dict[tuple[ModelConfig, RopeConfig, str], Evaluation] = {}
    rows = []
    for number, source in enumerate(sources, start=1):
        if len(sources) > 1:
            say(f"{number}/{len(sources)}: {source.path}")
        if _kind(source) not in opened:
            opened[_kind(source)] = _open(config, source, say)
        score = opened[_kind(source)].measure(load_checkpoint(source.path).model)
        rows.append(Row(str(source.path), source.clock_tokens, None, score))
    return rows


def _kind(source: Source) -> tuple[ModelConfig, RopeConfig, str]:
    return source.config.model, source.phase.rope, source.tokenizer_sha256


def _open(config: Config, source: Source, say: Callable[[str], None]) -> Evaluation:
    return Evaluation(replace(config, model=source.config.model), source.phase.rope, source.tokenizer_sha256, say)


def parse(arguments: Sequence[str]) -> EvaluateRequest:
    """Return what a command line asks for.

    Raises:
        ConfigError: a word is not understood, or nothing is named.
    """
    names: list[str] = []
    overrides: dict[str, str] = {}
    run = None
    for word in arguments:
        key, separator, value = word.partition("=")
        if separator and key == "run" and value:
            run = value
        elif separator and is_override(key):
            overrides[key] = value
        elif separator and not Path(word).exists():
            raise unknown_word(word, ("run", "data.streams.<name>.local", "eval.max_blocks"), _USAGE)
        else:
            names.append(word)
    if not names and run is None:
        raise ConfigError("nothing is named that could be evaluated", _USAGE)
    return EvaluateRequest(tuple(names), run, overrides)
