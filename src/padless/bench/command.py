"""``padless bench chaos|resume|step|... [key=value ...] [--json]``."""

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from padless.data.durable import write_durably
from padless.errors import ConfigError, TrainingError
from padless.saying import say_on

_FOLDER = "runs/bench"

# Each module has a function ``bench(arguments, as_json)``.
SPEED_BENCHES = {
    "step": "padless.bench.step",
    "inference": "padless.bench.inference",
    "attention": "padless.bench.attention",
    "memory": "padless.bench.memory",
    "packing": "padless.bench.packing",
    "loader": "padless.bench.loader",
    "prepare": "padless.bench.prepare",
    "overhead": "padless.bench.overhead",
    "growth": "padless.bench.growth",
    "gpu": "padless.bench.gpu",
    "all": "padless.bench.everything",
}


def bench_command(arguments: list[str], as_json: bool) -> None:
    """Run the bench that the first argument names.

    Args:
        arguments: the bench, then ``key=value`` settings.
        as_json: print one JSON object on standard output; progress then goes to standard error.

    Raises:
        ConfigError: an unknown bench or setting.
        TrainingError: the bench did not pass.
    """
    benches: dict[str, Callable[[list[str], bool], None]] = {"chaos": _chaos, "resume": _resume}
    name = arguments[0] if arguments else ""
    if name in SPEED_BENCHES:
        importlib.import_module(SPEED_BENCHES[name]).bench(arguments[1:], as_json)
        return
    if name not in benches:
        names = ", ".join([*benches, *SPEED_BENCHES])
        raise ConfigError(f"{name!r} is not a bench", f"write padless bench and one of {names}")
    benches[name](arguments[1:], as_json)


def _chaos(arguments: list[str], as_json: bool) -> None:
    settings = settings_of(arguments, {"kills": "30", "seed": "0", "processes": "1,2", "folder": f"{_FOLDER}/chaos"})
    count, seed = whole_number("kills", settings["kills"]), whole_number("seed", settings["seed"])
    processes = [whole_number("processes", part) for part in settings["processes"].split(",")]
    from padless.bench import report
    from padless.bench.chaos import run_chaos

    console, folder = Console(stderr=as_json), Path(settings["folder"])
    lines, began_s = report.Lines(console, count), time.monotonic()
    series = run_chaos(folder, count, seed, processes, lines.tell, lines.say)
    plain = report.as_plain(series, seed, time.monotonic() - began_s)
    write_durably(folder / "chaos.json", (json.dumps(plain, indent=1) + "\n").encode())
    report.draw(series, folder / "chaos.png")
    console.print(report.table(series))
    lines.say(f"{plain['summary']}; {plain['wall_s']:.0f} s in all; {folder / 'chaos.json'}, {folder / 'chaos.png'}")
    require_survival(plain, folder)
    _print_json(plain, as_json)


def require_survival(plain: Mapping[str, Any], folder: Path) -> None:
    """Stop if a kill of a chaos run (:func:`padless.bench.report.as_plain`) was not survived.

    Raises:
        TrainingError: names what was not.
    """
    if plain["failures"]:
        raise TrainingError(f"{plain['summary']}; not: {'; '.join(plain['failures'])}", f"read the logs under {folder}")


def _resume(arguments: list[str], as_json: bool) -> None:
    settings = settings_of(arguments, {"blocks": "1_000_000", "repeats": "3", "folder": f"{_FOLDER}/resume"})
    blocks, repeats = whole_number("blocks", settings["blocks"]), whole_number("repeats", settings["repeats"])
    from padless.bench.resume import as_markdown, require_constant, run_resume

    say, folder = say_on(Console(stderr=as_json)), Path(settings["folder"])
    result = run_resume(folder, blocks, repeats, say)
    plain = result.as_plain()
    write_durably(folder / "resume.json", (json.dumps(plain, indent=1) + "\n").encode())
    write_durably(folder / "resume.md", as_markdown(result).encode())
    say(as_markdown(result))
    require_constant(result, folder)
    _print_json(plain, as_json)


def _print_json(plain: Mapping[str, object], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(plain) + "\n")


def settings_of(arguments: list[str], defaults: Mapping[str, str]) -> dict[str, str]:
    """Return ``defaults`` with the values that ``key=value`` arguments give.

    Raises:
        ConfigError: an argument is no ``key=value`` of a known key.
    """
    found = dict(defaults)
    for text in arguments:
        key, separator, value = text.partition("=")
        if not separator or not value or key not in defaults:
            raise ConfigError(
                f"{text!r} is not one of {', '.join(defaults)} with a value", f"write e.g. {_example(defaults)}"
            )
        found[key] = value
    return found


def _example(defaults: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in defaults.items())


def whole_number(key: str, text: str) -> int:
    """Return the number that ``text`` writes (``1_000`` is one).

    Raises:
        ConfigError: it is none.
    """
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{key}={text} is not a whole number", f"write e.g. {key}=2") from None


def at_least_one(key: str, text: str) -> int:
    """Return the whole number that ``text`` writes.

    Raises:
        ConfigError: it is none, or less than 1.
    """
    number = whole_number(key, text)
    if number < 1:
        raise ConfigError(f"{key}={text} is less than 1", f"write e.g. {key}=2")
    return number


def one_of(key: str, value: str, allowed: Sequence[str]) -> str:
    """Return ``value``.

    Raises:
        ConfigError: it is not among those allowed.
    """
    if value not in allowed:
        raise ConfigError(f"{key}={value} is not one of {', '.join(allowed)}", f"write e.g. {key}={allowed[0]}")
    return value
