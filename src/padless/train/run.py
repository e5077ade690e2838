"""The story of a run, in order: check, prepare, plan, choose hardware, find the start, fit each phase, export, show.

Every step either finishes or stops with a plain error; running the same command again goes on from the newest whole
checkpoint.
"""

import dataclasses
from pathlib import Path

from rich.console import Console

from padless.checkpoint import load_checkpoint, newest_checkpoint
from padless.config.check import check
from padless.config.load import config_hash, to_plain
from padless.config.schema import Config
from padless.data.preflight import PreparedData, open_data
from padless.plan.table import print_plan
from padless.schedule.phases import PhasePlan, phase_at, plan_phases
from padless.train.finish import finish_run, make_validation
from padless.train.folder import RunFolder
from padless.train.handover import (
    StartState,
    check_theta,
    check_tokenizer,
    load_source,
    state_from_run,
    state_from_source,
    with_rewarmup,
)
from padless.train.hardware import choose_compute
from padless.train.loggers import build_loggers
from padless.train.phase import RunContext, fit_phase
from padless.train.world import World, start_world
from padless.units import approximate_tokens


def run(config: Config) -> Path:
    """Train all phases of ``config`` that are not done yet, export, and return the run's folder.

    Raises:
        PadlessError: anything the user can mend, with cause and remedy.
    """
    world = start_world(config.hardware)
    console = Console(quiet=not world.is_leader)
    config, rewarmup_line = with_rewarmup(config)
    warnings = check(config, world.size)
    for line in [*warnings, *([rewarmup_line] if rewarmup_line else [])]:
        _say(console, f"note: {line}")
    compute, hardware_lines = choose_compute(config, world)
    data = open_data(config, world, lambda line: _say(console, line))
    plans = plan_phases(config)
    if world.is_leader:
        print_plan(config, console)
    for line in hardware_lines:
        _say(console, line)
    folder = RunFolder(Path(config.run.folder) / config.run.name, world.is_leader)
    start = _find_start(config, plans, folder, data, world, console)
    context = RunContext(
        config=config,
        plans=plans,
        end_tokens=min(plans[-1].end_tokens, config.run.stop_after_tokens or plans[-1].end_tokens),
        folder=folder.path,
        world=world,
        compute=compute,
        data=data,
        validation=make_validation(config, data, world, compute),
        metrics=folder.metrics,
        loggers=build_loggers(config, folder.path, world.is_leader),
        checkpoint_meta={
            "config": to_plain(config),
            "data": data.hashes,
            "tokenizer_folder": str(folder.tokenizer),
            "tokenizer_sha256": data.tokenizer_sha256,
        },
        config_hash=config_hash(config),
        tile_source=None,
        console=console,
        say=lambda line: _say(console, line),
    )
    if start.model is None and config.init.source is not None:
        source, _ = load_source(config.init.source)
        check_tokenizer(source, config.init.source, data.tokenizer_sha256)
        check_theta(source, plans[0], config.init.allow_theta_change)
        context = dataclasses.replace(context, tile_source=source)
    folder.metrics.rewind(start.clock_tokens)
    folder.begin(config, start, data, world.size)
    for plan in plans[phase_at(plans, start.clock_tokens).index :]:
        if start.clock_tokens >= min(plan.end_tokens, context.end_tokens):
            continue
        _say(console, f"phase {plan.name!r}: from {start.clock_tokens:_} to {plan.end_tokens:_} tokens")
        path = fit_phase(context, plan, start)
        start = state_from_run(load_checkpoint(path), str(path))
        folder.note("phase_end" if start.clock_tokens >= plan.end_tokens else "stopped", start.clock_tokens, plan.name)
    finish_run(context, start)
    return folder.path


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _find_start(
    config: Config, plans: tuple[PhasePlan, ...], folder: RunFolder, data: PreparedData, world: World, console: Console
) -> StartState:
    """Return the newest state of this run, or else what the recipe starts from."""
    found = newest_checkpoint(folder.path, lambda line: _say(console, line)) if world.is_leader else None
    path = world.gather(found)[0]
    if path is not None:
        saved = load_checkpoint(path)
        folder.refuse_other_config(saved.meta, config, data)
        start = state_from_run(saved, str(path))
        phase = phase_at(plans, start.clock_tokens)
        done = "all phases are done" if start.clock_tokens >= plans[-1].end_tokens else f"resumed phase {phase.name!r}"
        _say(console, f"{done} at {approximate_tokens(start.clock_tokens)} tokens (step {start.step:,}) from {path}")
        return start
    if config.start.source is not None:
        start, parent = state_from_source(config.start.source, config.start.keep, config.model)
        check_tokenizer(parent, config.start.source, data.tokenizer_sha256)
        seen = "unknown" if parent.tokens_seen is None else approximate_tokens(parent.tokens_seen)
        _say(console, f"weights from {config.start.source} (tokens seen by it: {seen}); this run's clock starts at 0")
        if parent.rope != plans[0].phase.rope:
            _say(console, f"note: the source has RoPE thetas {parent.rope}, this run begins with {plans[0].phase.rope}")
        return start
    return StartState(None, None, 0, 0, 0.0, config.init.source or "random weights")
