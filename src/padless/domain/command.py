"""``python data_prep/continue_on.py input=my.csv source=<weights>``: from documents to a Hugging Face folder.

    words -> settings, judged by themselves         settings
    source -> shape, thetas, lengths, tokenizer     source_facts; all weights are read once, before any document
    all settings of the run, rehearsed              run_settings
    documents -> blocks, with that tokenizer        preparation; the longest segments that source and documents have
    recipe -> tokens and batches for their size     sizing
    train.py with all of it as settings             prints the command, then becomes it; the same again goes on

Everything it decides is a setting of ``train.py`` that the command line shows, so nothing needs an edited YAML file.
"""

import functools
import inspect
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from padless.config.check import check
from padless.config.compose import compose
from padless.data.arguments import run_script
from padless.domain.preparation import plan_streams, prepare_domain, prepare_stream
from padless.domain.run_settings import (
    command_of,
    rate_line,
    refuse_missing_gpus,
    refuse_other_run,
    rehearse,
    run_settings,
    size,
)
from padless.domain.settings import DOMAIN, GENERAL, KEEPS, Continuation, DocumentSettings, is_of_train, judge
from padless.domain.sizing import DomainSize, Sizing
from padless.domain.source_facts import SourceFacts, check_source, read_source
from padless.errors import ConfigError
from padless.export.source import resolve_source
from padless.train.source_schedule import schedule_line, schedule_of

_NO_REPLAY = (
    "note: no replay: without general=<general text> every batch is of your documents alone, and what the source knows "
    "of other text fades (in docs/domain.md's runs the loss on general text rose from 4.77 to 5.80 without replay, and "
    "did not rise with 10 %); general= mixes it in, replay=0.1 of every batch"
)
_FEW_STEPS = 100  # ours: a model hardly moves in fewer


def continue_on_script(argv: Sequence[str]) -> int:
    """Run :func:`continue_on` on ``key=value`` words; words that are settings of ``train.py`` go there."""
    settings = tuple(word for word in argv if is_of_train(word))

    @functools.wraps(Continuation, updated=())
    def with_settings(**values: object) -> None:
        continue_on(Continuation(**values, settings=settings))  # pyright: ignore[reportArgumentType] - by their types

    with_settings.__doc__ = "\n\n".join(inspect.getdoc(each) or "" for each in (Continuation, DocumentSettings))
    return run_script(with_settings, [word for word in argv if not is_of_train(word)])


def continue_on(wanted: Continuation, console: Console | None = None) -> list[str]:
    """Prepare documents for a source, then train on them; return the training command.

    Args:
        wanted: documents, source and run.
        console: where lines go; left out, standard output.

    Raises:
        PadlessError: documents, source or settings cannot be used; what can be known before the documents are
            prepared is said before.
    """
    console = console or Console()
    recipe = judge(wanted)
    refuse_missing_gpus(wanted, recipe, torch.cuda.device_count())
    refuse_other_run(wanted, recipe)
    facts = _open_source(wanted, console)
    longest = _longest(wanted, facts)
    if wanted.general is None:
        _say(console, _NO_REPLAY)
    rehearse(wanted, recipe, facts)
    cap, domain = _prepare(wanted, facts, longest, console)
    sizing = size(wanted, recipe, domain)
    _say(console, sizing.line)
    if sizing.steps < _FEW_STEPS:
        _say(console, _few_steps_line(wanted, sizing, cap))
    settings = run_settings(wanted, recipe, facts, cap, sizing)
    config = compose(settings)
    _say(console, rate_line(config, facts))
    for line in check(config, wanted.ranks):
        _say(console, f"note: {line}")
    command = command_of(wanted, settings)
    _say(console, f"\n{shlex.join(command)}\n")
    if wanted.train:
        sys.stdout.flush()
        os.execv(command[0], command)  # its signals and its exit code are train.py's own
    return command


def _open_source(wanted: Continuation, console: Console) -> SourceFacts:
    source = resolve_source(wanted.source)
    facts = read_source(source, Path(wanted.tokenizer) if wanted.tokenizer else None)
    check_source(source, facts, wanted.keep)
    line = schedule_line(schedule_of(source), wanted.keep != KEEPS[0], key="source")
    if line is not None:
        _say(console, f"note: {line}")  # before the documents are prepared, which may take hours
    return facts


def _longest(wanted: Continuation, facts: SourceFacts) -> int:
    """Return the longest segment that source and blocks allow, in tokens."""
    longest = min(facts.max_seq_len, wanted.block_tokens)
    if wanted.max_seq_len is not None and wanted.max_seq_len > longest:
        raise ConfigError(
            f"max_seq_len={wanted.max_seq_len} is more than the source was trained on ({facts.max_seq_len})",
            f"use max_seq_len={longest} at most",
        )
    return longest


def _prepare(wanted: Continuation, facts: SourceFacts, longest: int, console: Console) -> tuple[int, DomainSize]:
    """Prepare all streams; return the longest segment and how much text the domain has."""
    streams = plan_streams(wanted, facts, lambda line: _say(console, line))
    manifest, cap = prepare_domain(streams[DOMAIN], longest, wanted.max_seq_len, console)
    if GENERAL in streams:
        prepare_stream(streams[GENERAL], cap, console)
    blocks = manifest.split(cap, "train")
    return cap, DomainSize(blocks.num_real_tokens, blocks.fill)


def _few_steps_line(wanted: Continuation, sizing: Sizing, cap: int) -> str:
    smaller = f", smaller blocks (block_tokens={cap})" if wanted.block_tokens > cap else ""
    steps = f"{sizing.steps} step{'s' * (sizing.steps != 1)}"
    return f"note: {steps} of training move a model little: give more text{smaller}, or more passes=..."


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)
