"""The story of a run, in order: check, take the folder, prepare, plan, find the beginning, fit each phase, export.

Then the same, from the beginning on, for each branch (:mod:`padless.train.branches`).
Every step either finishes or stops with a plain error; running the same command again goes on from the newest whole
checkpoint.
"""

import dataclasses
import gc
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from padless.checkpoint import expected_bytes, load_checkpoint, refuse_too_little_space
from padless.config.branches import naming_branch, with_branches
from padless.config.check import check
from padless.config.load import config_hash, to_plain
from padless.config.schema import Config
from padless.data.preflight import open_data
from padless.events import reached
from padless.model.count import count_parameters
from padless.plan.table import print_plan
from padless.saying import say_on
from padless.schedule.phases import phase_at, plan_phases
from padless.train.bad_step import Rewind
from padless.train.beginning import Beginning, find_beginning, refuse_endless_rewinds
from padless.train.branches import Reached, Ready, compare_branches, find_one_branch, train_branches
from padless.train.callbacks.profile import ProfileSteps
from padless.train.callbacks.resumed import AnnounceResume
from padless.train.finish import finish_run, make_validation
from padless.train.folder import RunFolder
from padless.train.growth import judge_growth, open_growth
from padless.train.handover import (
    StartState,
    skip_step,
    state_from_run,
    with_rewarmup,
)
from padless.train.hardware import choose_compute
from padless.train.loggers import build_loggers
from padless.train.phase import RunContext, fit_phase
from padless.train.supervise import Supervisor, supervised
from padless.train.world import World, start_world
from padless.units import approximate_tokens


def run(config: Config) -> Path:
    """Train all phases and branches of ``config`` that are not done yet, export, and return the run's folder.

    Raises:
        PadlessError: anything the user can mend, with cause and remedy.
        Stopped: a signal ended it, with a checkpoint.
    """
    began_s = time.perf_counter()
    world = start_world(config.hardware)
    console = Console(quiet=not world.is_leader)
    config, rewarmup_line = with_rewarmup(config)
    warnings = check(config, world.size)
    for line in [*warnings, *([rewarmup_line] if rewarmup_line else [])]:
        say_on(console)(f"note: {line}")
    if config.run.branch is not None:
        return _run_one_branch(config, world, console, began_s)
    folder = RunFolder(Path(config.run.folder) / config.run.name, world.is_leader)
    with supervised(folder.path, world, say_on(console)) as supervisor:
        judge_growth(config, folder.path)
        ready = _prepare(config, world, console)
        end = _train(config, ready, folder, supervisor, began_s)
        train_branches(config, ready, folder.path, end, supervisor, _train)
    return folder.path


def _run_one_branch(config: Config, world: World, console: Console, began_s: float) -> Path:
    """Train ``run.branch`` alone: its trunk's phases are done, and another process may be training another branch."""
    branch = find_one_branch(config, world)
    folder = RunFolder(branch.path, world.is_leader)
    with supervised(folder.path, world, say_on(console)) as supervisor:
        ready = _prepare(config, world, console)
        with naming_branch(branch.name):
            _train(branch.config, ready, folder, supervisor, began_s)
        compare_branches(config, ready)
    return folder.path


def _prepare(config: Config, world: World, console: Console) -> Ready:
    """Choose how to compute, open the data, and say what will be done."""
    every_phase = with_branches(config)
    compute, hardware_lines = choose_compute(every_phase, world)
    data = open_data(every_phase, world, say_on(console))
    if world.is_leader:
        print_plan(config, console)
    for line in hardware_lines:
        say_on(console)(line)
    return Ready(world, compute, data, console, say_on(console))


def _train(config: Config, ready: Ready, folder: RunFolder, supervisor: Supervisor, began_s: float) -> Reached:
    """Train one run, a trunk or a branch: find its beginning, fit its phases, export."""
    world, data, say = ready.world, ready.data, ready.say
    plans = plan_phases(config)
    beginning = find_beginning(config, plans, folder, data, world, say)
    start = beginning.state
    own = Path(start.origin) if beginning.event == "resume" else None
    supervisor.stand_at(phase_at(plans, start.clock_tokens).name, start.clock_tokens, start.step, own)
    context = RunContext(
        config=config,
        plans=plans,
        end_tokens=min(plans[-1].end_tokens, config.run.stop_after_tokens or plans[-1].end_tokens),
        folder=folder.path,
        world=world,
        compute=ready.compute,
        data=data,
        validation=make_validation(config, data, world, ready.compute),
        metrics=folder.metrics,
        loggers=build_loggers(config, folder.path, world.is_leader),
        wish_to_stop=supervisor.wish_to_stop,
        saved=supervisor.stand_at,
        checkpoint_meta={
            "config": to_plain(config),
            "data": data.hashes,
            "tokenizer_folder": str(folder.tokenizer),
            "tokenizer_sha256": data.tokenizer_sha256,
        },
        config_hash=config_hash(config),
        growth=None,
        profiler=_profiler(config, folder, world, say),
        console=ready.console,
        say=say,
    )
    if start.model is None and config.init.source is not None:
        context = dataclasses.replace(context, growth=open_growth(config, plans[0], data.tokenizer_sha256))
    if world.is_leader:
        refuse_too_little_space(folder.path, expected_bytes(count_parameters(config.model).total))
    folder.begin(config, start, data, list(world.hosts), beginning.event, beginning.changes, beginning.facts)
    start = _fit_phases(context, folder, supervisor, beginning, began_s)
    finish_run(context, start)
    return Reached(start.clock_tokens, Path(start.origin))


def _profiler(config: Config, folder: RunFolder, world: World, say: Callable[[str], None]) -> ProfileSteps | None:
    if config.run.profile_steps is None or not world.is_leader:
        return None
    return ProfileSteps(folder.path, config.run.profile_from_step, config.run.profile_steps, say)


def _fit_phases(
    context: RunContext, folder: RunFolder, supervisor: Supervisor, beginning: Beginning, began_s: float
) -> StartState:
    """Fit phase after phase, going back where the guard asks for it, and return the last state."""
    start, line = beginning.state, beginning.line
    rewinds_here = 0
    folder.metrics.rewind(start.clock_tokens or -1)  # from the very start, all of it is done again
    while start.clock_tokens < context.end_tokens:
        plan = phase_at(context.plans, start.clock_tokens)
        context.say(f"phase {plan.name!r}: from {start.clock_tokens:_} to {plan.end_tokens:_} tokens")
        announce = AnnounceResume(line, began_s, context.say) if line else None
        try:
            with supervisor.training():
                end = fit_phase(context, plan, start, announce)
        except Rewind as rewind:
            began_s = time.perf_counter()
            back = find_beginning(context.config, context.plans, folder, context.data, context.world, context.say)
            rewinds_here = rewinds_here + 1 if back.state.clock_tokens == start.clock_tokens else 1
            refuse_endless_rewinds(rewinds_here, context.config.guard.max_in_a_row, rewind.problem, plan.name)
            start, line = _rewind(context, folder, rewind, back.state), back.line
            continue
        finally:
            if context.world.is_gpu:  # a Trainer is in cycles: its weights and moments would stay beside the next one's
                gc.collect()
        start, line = state_from_run(load_checkpoint(end.checkpoint), str(end.checkpoint)), ""
        is_done = start.clock_tokens >= plan.end_tokens
        folder.note("phase_end" if is_done else "stopped", start.clock_tokens, end.stop or plan.name)
        if end.stop is not None:
            place = f"{approximate_tokens(start.clock_tokens)} tokens with {end.checkpoint}"
            supervisor.stop_together(f"stopped on {end.stop} at {place}; the same command goes on")
        reached("handover")
    return start


def _rewind(context: RunContext, folder: RunFolder, rewind: Rewind, state: StartState) -> StartState:
    """Leave the blocks of the bad step out, for good, and return the last good state without them."""
    skipped = skip_step(context.plans, rewind.clock_tokens, state.skipped)
    folder.note(
        "rewind",
        state.clock_tokens,
        rewind.problem,
        from_clock_tokens=rewind.clock_tokens,
        from_step=rewind.step,
        report=rewind.report,
        left_out=[dataclasses.astuple(each) for each in skipped if each not in state.skipped],
    )
    folder.write_skipped(skipped)
    folder.metrics.rewind(state.clock_tokens or -1)
    back, there = approximate_tokens(rewind.clock_tokens), approximate_tokens(state.clock_tokens)
    context.say(f"rewind: back from {back} to {there} tokens, and on without the blocks of the bad step")
    return dataclasses.replace(state, skipped=skipped)
