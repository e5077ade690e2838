"""``padless diff RUN_A RUN_B [out=diff.png]``: read both runs, compare, print."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from padless.config.load import unknown_word
from padless.data.picture_file import picture_file
from padless.diff.losses import Agreement, LossComparison, Reached, compare_losses
from padless.diff.provenance import Fact, compare_provenance
from padless.diff.read import RUNS, Run, read_run
from padless.diff.settings import SettingDifference, different_settings
from padless.errors import ConfigError
from padless.units import approximate_tokens

_USAGE = "write: padless diff RUN_A RUN_B [out=diff.png]"
_MAX_VALUE = 200  # characters shown of one value


def diff_command(arguments: list[str], as_json: bool) -> None:
    """Show where two runs differ.

    Args:
        arguments: two run folders, or names of runs under ``runs/``, and optionally ``out=<file>.png``.
        as_json: print one JSON object instead of lines.

    Raises:
        ConfigError: other arguments, no such run or folder, or a configuration that cannot be used.
        CheckpointError: a run without lineage or metrics.
    """
    names, out = _parse(arguments)
    a, b = read_run(names[0]), read_run(names[1])
    settings = different_settings(a.config, b.config)
    facts = compare_provenance(a, b)
    losses = compare_losses(a, b)
    verdict = _verdict(settings, facts, losses)
    if as_json:
        content = {
            "ok": True,
            "a": str(a.folder),
            "b": str(b.folder),
            "branches": {"a": a.branch, "b": b.branch},
            "settings": [dataclasses.asdict(entry) for entry in settings],
            "provenance": [{**dataclasses.asdict(fact), "differs": fact.differs} for fact in facts],
            "losses": dataclasses.asdict(losses),
            "unread_lines": {"a": a.unread_lines, "b": b.unread_lines},
            "verdict": verdict,
        }
        Console().print(json.dumps(content), markup=False, highlight=False, soft_wrap=True)
    else:
        lines = [*_heading(a, b), *_settings_lines(settings), *_provenance_lines(facts), *_losses_lines(losses)]
        for line in [*lines, "", verdict]:
            Console().print(Text(_printable(line)), soft_wrap=True)
    if out is not None:
        from padless.diff.plot import plot_difference  # matplotlib

        plot_difference(a, b, losses, out)
        if not as_json:
            Console().print(Text(_printable(f"drawn: {out}")), soft_wrap=True)


def _parse(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    names, out = [], None
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if key == "out" and separator:
            out = value
        elif separator and not any(path.exists() for path in (Path(argument), RUNS / argument)):
            raise unknown_word(argument, ["out"], _USAGE)
        else:
            names.append(argument)
    if len(names) != 2:
        raise ConfigError(f"diff compares two runs, {len(names)} given", _USAGE)
    return names, None if out is None else picture_file(out, _USAGE)


def _verdict(settings: Sequence[SettingDifference], facts: Sequence[Fact], losses: LossComparison) -> str:
    if not losses.overlaps:
        begin, end = _tokens(losses.from_tokens), _tokens(losses.to_tokens)
        return f"the runs have no step in common: one begins at {begin} tokens, the other ends at {end}"
    parted = losses.parted_at_tokens
    if parted is not None:
        return f"the runs computed something else, first at {_tokens(parted)} tokens"
    end = losses.to_tokens
    since = f"from {_tokens(losses.from_tokens)} " if losses.from_tokens else ""
    to_where = f"every loss and block is the same, bit for bit, {since}to {_tokens(end)} tokens"
    if losses.a.tokens != losses.b.tokens:
        shorter = "A" if losses.a.tokens == end else "B"
        return f"the runs computed the same: {to_where}, where {shorter} ends"
    if settings or any(fact.differs for fact in facts):
        return f"the runs computed the same: {to_where}"
    return f"the runs are identical in settings and provenance; {to_where}"


def _heading(a: Run, b: Run) -> list[str]:
    lines = [f"A: {a.folder}", f"B: {b.folder}"]
    for letter, run in (("A", a), ("B", b)):
        if run.branch is not None:
            lines.append(f"{letter} branches off at {approximate_tokens(run.branch[0])} tokens from {run.branch[1]}")
        if run.unread_lines:
            lines.append(f"note: lines of {letter} that are cut off or not padless's, left out: {run.unread_lines}")
    return lines


def _settings_lines(settings: Sequence[SettingDifference]) -> list[str]:
    if not settings:
        return ["", "settings: no difference"]
    lines = []
    for changes_results, heading in ((True, "settings that change results"), (False, "other settings")):
        part = [entry for entry in settings if entry.changes_results == changes_results]
        mark = "* " if changes_results else "  "
        if part:
            lines += ["", f"{heading}: {len(part)} differ (A | B)"]
            lines += [f"{mark}{entry.key}: {_value(entry.a)} | {_value(entry.b)}" for entry in part]
    return lines


def _provenance_lines(facts: Sequence[Fact]) -> list[str]:
    counts = {"resumes", "rewinds", "changes of ranks", "changes of settings"}
    shown = [fact for fact in facts if fact.differs or fact.name in counts]
    same = [fact.name for fact in facts if fact not in shown]
    lines = ["", "provenance (A | B)", *(f"  {fact.name}: {fact.a} | {fact.b}" for fact in shown)]
    return [*lines, f"  the same: {', '.join(same)}"] if same else lines


def _losses_lines(losses: LossComparison) -> list[str]:
    since = f", compared after {_tokens(losses.from_tokens)} tokens" if losses.from_tokens else ""
    lines = ["", f"losses (A | B){since}"]
    if losses.overlaps:
        lines.append(f"  training loss: {_agreement_text(losses.losses, losses.common_steps)}")
        lines.append(f"  blocks: {_agreement_text(losses.blocks, losses.common_steps)}")
    if losses.largest_difference:
        at = _tokens(losses.largest_difference_at_tokens)
        lines.append(f"  largest difference of training losses: {losses.largest_difference:.3g} at {at} tokens")
    if losses.common_validation is not None:
        clock, in_a, in_b = losses.common_validation
        lines.append(f"  validation at {_tokens(clock)}, the last that both have: {in_a:.6f} | {in_b:.6f}")
    columns: tuple[tuple[str, Callable[[Reached], str]], ...] = (
        ("last validation loss", _last_validation),
        ("last training loss", lambda run: "not finite" if run.last_loss is None else f"{run.last_loss:.6f}"),
        ("reached", lambda run: f"{_tokens(run.tokens)} tokens, step {run.steps:,}, phase {run.phase}"),
        ("throughput", _throughput),
    )
    return lines + [f"  {name}: {show(losses.a)} | {show(losses.b)}" for name, show in columns]


def _agreement_text(agreement: Agreement, common_steps: int) -> str:
    if agreement.differs_at_tokens is None:
        return f"the same at all {common_steps:,} common steps, to {_tokens(agreement.same_until_tokens)} tokens"
    values = " | ".join("no step" if value is None else str(value) for value in (agreement.a, agreement.b))
    first = f"first difference at {_tokens(agreement.differs_at_tokens)}: {values}"
    if agreement.same_steps == 0:
        return f"differs from the first step on; {first}"
    steps = "1 step" if agreement.same_steps == 1 else f"{agreement.same_steps:,} steps"
    same = f"the same, bit for bit, until {_tokens(agreement.same_until_tokens)} tokens ({steps})"
    return f"{same}; {first}"


def _last_validation(run: Reached) -> str:
    if run.last_validation_loss is None:
        return "none"
    return f"{run.last_validation_loss:.6f} at {_tokens(run.last_validation_tokens)}"


def _throughput(run: Reached) -> str:
    rate = run.real_tokens_per_s
    return "unknown" if rate is None else f"{approximate_tokens(rate)} real tokens/s"


def _tokens(count: int | None) -> str:
    return "none" if count is None else f"{count:_}"


def _value(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}..."


def _printable(text: str) -> str:
    """Return text without the control characters with which a stranger's file could steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
