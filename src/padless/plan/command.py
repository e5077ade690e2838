"""``padless plan [recipe=... gpus=8xh100 ...] [--measure] [--fit '8xh100, 3 days'] [--json]``."""

import json

from rich.console import Console

from padless.config.compose import compose
from padless.errors import ConfigError
from padless.plan.estimate import Speed, estimate
from padless.plan.measure import look, machine_here, measure
from padless.plan.report import as_plain, print_estimate
from padless.plan.request import Ready, Request, named_machine, parse_request, prepare
from padless.saying import say_on


def plan_command(arguments: list[str], as_json: bool) -> None:
    """Print what a run does and costs, or with ``--fit`` what a budget can train.

    Args:
        arguments: Hydra's overrides, and ``gpus=8xh100`` (or ``hardware=``), ``price=`` in USD a GPU-hour, ``out=`` for
            a picture of the schedule, ``lengths=web|long|full``, ``link_gb_s=``, ``--measure``, ``--fit``.
        as_json: print one JSON object on standard output.

    Raises:
        ConfigError: a setting is wrong, or nothing fits the memory.
        DataError: a manifest is there and cannot be read.
        TrainingError: the probe failed.
    """
    request = parse_request(arguments)
    if request.fit is not None:
        _fit(request, as_json)
        return
    ready, speed = _measured(request, as_json) if request.measure else (prepare(request), None)
    price = ready.machine.device.usd_per_hour if request.price is None else request.price
    run = estimate(ready.config, ready.machine, ready.microbatch_blocks, price, request.lengths, speed)
    console = Console()
    if as_json:
        say_on(console)(json.dumps(as_plain(run, ready.largest_blocks, ready.remarks)))
    else:
        print_estimate(run, ready.largest_blocks, ready.remarks, console)
    if request.out is not None:
        from padless.plan.picture import draw_schedule  # matplotlib

        draw_schedule(ready.config, request.out)
        if not as_json:
            say_on(console)(f"drawn: {request.out}")


def _measured(request: Request, as_json: bool) -> tuple[Ready, Speed]:
    """Return the configuration on this machine, and what the probe says of it."""
    config = compose(request.overrides)
    present = look(config)
    ready = prepare(request, machine_here(present, named_machine(request, config)))
    return ready, measure(ready.config, present, request.lengths, say_on(Console(stderr=as_json)))


def _fit(request: Request, as_json: bool) -> None:
    from padless.plan.fit import answer, parse_budget, print_answer

    if request.overrides or request.gpus or request.measure or request.out or request.link_gb_s:
        raise ConfigError(
            "--fit stands by itself: it looks for model and tokens",
            "write padless plan --fit '8xh100, 3 days' [lengths=...] [price=...] [--json]",
        )
    budget = parse_budget(request.fit or "")
    found = answer(budget, request.lengths)
    price = budget.machine.device.usd_per_hour if request.price is None else request.price
    console = Console()
    if as_json:
        say_on(console)(json.dumps(found.as_plain(price)))
    else:
        print_answer(found, price, console)
