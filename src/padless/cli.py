"""The ``padless`` command: ``padless check|plan|design|recipes|export|merge|... [--json]``; ``padless -h`` names all.

Overrides are Hydra's, the same as for ``train.py``. Exit codes: 0 done, 1 our fault (traceback), 2 the user's to mend
(cause and remedy, no traceback), 85 stopped on a signal. ``check``, ``plan`` and ``diff`` need neither torch nor a GPU.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from padless.errors import PadlessError, Stopped, TrainingError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)  # words after a flag are left over
    unknown = [word for word in rest if word.startswith("-")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    options.overrides.extend(rest)
    command: Callable[[list[str], bool], int | None] = options.command
    flags = [f"--{name}={value}" for name, value in vars(options).items() if name in _FLAGS and value]
    return exit_code_of(lambda: command([*options.overrides, *flags], options.json), options.json)


def exit_code_of(action: Callable[[], object], as_json: bool = False) -> int:
    """Run ``action``; return 0 (or the code it returns), 2 after a mistake, 85 after a stop signal, 130 after Ctrl-C.

    Other errors keep their traceback.

    Args:
        action: what to do.
        as_json: print the error as one JSON object on standard output, too.

    Before the ranks have joined they all meet the same mistake and only the first prints it, unless it is that another
    does not come. Afterwards an error may be one rank's own (its disk, its blocks), so each prints, others than the
    first with their number.
    """
    rank = os.environ.get("RANK", "0")
    try:
        result = action()
    except Stopped as stop:
        if rank == "0":
            print(f"{stop}", file=sys.stderr, flush=True)
        return stop.exit_code
    except KeyboardInterrupt:  # of what does not train; whatever it had begun has been taken back on the way
        print("interrupted", file=sys.stderr, flush=True)
        return 130
    except PadlessError as error:
        if rank == "0" and as_json:
            print(json.dumps({"ok": False, "cause": error.cause, "remedy": error.remedy}))
        if rank == "0" or _ranks_have_joined() or isinstance(error, TrainingError):
            prefix = "" if rank == "0" else f"[rank {rank}] "
            print(f"{prefix}error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return result if type(result) is int else 0


def _ranks_have_joined() -> bool:
    distributed = sys.modules.get("torch.distributed")  # not imported here: most commands need no torch
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="padless", description="Pretraining of ModernBERT-style encoders.")
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, command, example, text in _COMMANDS:
        subparser = commands.add_parser(name, help=text, description=text)
        subparser.add_argument("overrides", nargs="*", metavar="argument", help=example)
        subparser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
        for flag in _FLAGS_OF.get(name, ()):
            subparser.add_argument(f"--{flag}", **_FLAGS[flag])
        subparser.set_defaults(command=command)
    return parser


def _check(overrides: list[str], as_json: bool) -> None:
    """Check a configuration, then print its plan, the warnings, and for how many ranks it was checked."""
    from padless.config.check import check, ranks_to_check
    from padless.config.compose import compose

    config = compose(overrides)
    ranks = ranks_to_check(config, os.environ)
    warnings = check(config, ranks)
    from rich.console import Console

    from padless.plan.table import branch_rows, plan_rows, print_plan

    if as_json:
        rows = [dataclasses.asdict(row) for row in plan_rows(config)]
        branches = [dataclasses.asdict(row) for row in branch_rows(config)]
        print(json.dumps({"ok": True, "ranks": ranks, "warnings": warnings, "phases": rows, "branches": branches}))
        return
    print_plan(config, Console())
    for line in warnings:
        print(f"warning: {line}")
    print(f"ok: checked for {ranks} rank(s)")


def _plan(arguments: list[str], as_json: bool) -> None:
    from padless.plan.command import plan_command

    plan_command(arguments, as_json)


def _design(arguments: list[str], as_json: bool) -> None:
    from padless.design.command import design_command

    design_command(arguments, as_json)


def _recipes(arguments: list[str], as_json: bool) -> None:
    from padless.recipes.command import recipes_command

    recipes_command(arguments, as_json)


def _merge(arguments: list[str], as_json: bool) -> None:
    from padless.merge.command import merge_command  # torch

    merge_command(arguments, as_json)


def _evaluate(arguments: list[str], as_json: bool) -> None:
    from padless.merge.evaluate_command import evaluate_command  # torch

    evaluate_command(arguments, as_json)


def _import(arguments: list[str], as_json: bool) -> None:
    from padless.export.import_command import import_command  # torch

    import_command(arguments, as_json)


def _export(arguments: list[str], as_json: bool) -> None:
    from padless.export.export_command import export_command  # torch

    export_command(arguments, as_json)


def _checkpoints(arguments: list[str], as_json: bool) -> None:
    from padless.checkpoint.command import checkpoints_command  # torch

    checkpoints_command(arguments, as_json)


def _diff(arguments: list[str], as_json: bool) -> None:
    from padless.diff.command import diff_command

    diff_command(arguments, as_json)


def _doctor(overrides: list[str], as_json: bool) -> int:
    from padless.doctor.command import doctor_command

    return doctor_command(overrides, as_json)


def _bench(arguments: list[str], as_json: bool) -> None:
    from padless.bench.command import bench_command

    bench_command(arguments, as_json)


_FLAGS: dict[str, dict[str, Any]] = {  # each reaches its command as "--name=value"
    "measure": {"action": "store_true", "help": "measure on this machine instead of predicting"},
    "fit": {"metavar": "'8xh100, 3 days'", "help": "what fits this hardware and time"},
}
_FLAGS_OF = {"plan": ("measure", "fit"), "design": ("measure",)}
_COMMANDS = (
    (
        "check",
        _check,
        "e.g. recipe=modernbert_base",
        "check every setting of a configuration; no GPU, no data",
    ),
    ("plan", _plan, "e.g. recipe=modernbert_base hardware=8xh100", "steps, hours, memory, cost before they are paid"),
    ("design", _design, "e.g. parameters=149M", "search model shapes that run well on given GPUs"),
    ("recipes", _recipes, "list | show NAME | diff A B", "look at the recipes"),
    ("merge", _merge, "<checkpoint> <checkpoint> ... out=<file>", "average checkpoints and evaluate them"),
    ("evaluate", _evaluate, "<checkpoint> ... | run=<run>", "validation losses of checkpoints, side by side"),
    ("import", _import, "<path, name or hub id> out=<folder>", "published weights as a folder that loads everywhere"),
    (
        "export",
        _export,
        "checkpoint=<file> out=<folder> | run=<run> every=true out=<folder>",
        "write Hugging Face folders",
    ),
    ("checkpoints", _checkpoints, "<run folder> [verify=size|hash]", "list a run's checkpoints and their state"),
    ("diff", _diff, "<run folder> <run folder> [out=<png>]", "compare settings, provenance and losses of two runs"),
    ("doctor", _doctor, "e.g. recipe=modernbert_base", "check this machine for what a configuration needs"),
    (
        "bench",
        _bench,
        "chaos | resume | step | ... | all [key=value ...]",
        "kill, resume, measure",
    ),
)


if __name__ == "__main__":
    sys.exit(main())
