"""``padless design parameters=149M [context=8192 basket=t4,l4 ... out=<png>] [--measure] [--json]``."""

import json
import sys

from rich.console import Console

from padless.design.report import as_plain, correlation_line, front_table, measured_table, standing_lines
from padless.design.search import search
from padless.design.settings import parse_settings
from padless.saying import say_on


def design_command(arguments: list[str], as_json: bool) -> None:
    """Search shapes of one or more parameter budgets, show the front, and time shapes on this machine if asked to.

    Args:
        arguments: ``key=value`` settings (:data:`padless.design.settings.DEFAULTS`) and ``--measure=True``.
        as_json: print one JSON object on standard output; progress then goes to standard error.

    Raises:
        ConfigError: a setting cannot be used, or a budget has no shape.
        TrainingError: a process that measures fails.
    """
    settings = parse_settings(arguments)
    founds = [
        search(settings.grid, budget, settings.tolerance, settings.basket, settings.workloads)
        for budget in settings.budgets
    ]
    console = Console(stderr=as_json)
    say = say_on(console)

    measured = [None] * len(founds)
    if settings.measures:
        from padless.design.measure import measure, shapes_to_time

        measured = [
            measure(shapes_to_time(found, settings.candidates), settings.workloads, settings.repeats, say)
            for found in founds
        ]
    for found, timed in zip(founds, measured, strict=True):
        console.print(front_table(found, settings.basket, settings.workloads, settings.top, settings.has_memory))
        for line in standing_lines(found):
            say(line)
        if timed is not None:
            console.print(measured_table(timed))
            say(correlation_line(timed))
    if settings.out is not None:
        from padless.design.picture import draw  # matplotlib

        draw(founds, measured, ", ".join(gpu.name for gpu in settings.basket), settings.out)
        say(f"drawn: {settings.out}")
    if as_json:
        searches = [as_plain(found, settings.basket, timed) for found, timed in zip(founds, measured, strict=True)]
        names = {
            "basket": [gpu.name for gpu in settings.basket],
            "workloads": [each.name for each in settings.workloads],
        }
        sys.stdout.write(json.dumps({"ok": True, **names, "searches": searches}) + "\n")
