"""``padless bench growth``: does a model that is grown from a smaller trained one learn with fewer tokens?

A small source is trained once on the bundled text. Then, for each seed, a larger model starts at random, and from the
source in each way of tiling: the same data in the same order, the same learning rate, the same validation text. The
source itself is trained on as well, for what is gained without growing. Runs are processes of ``train.py``, one after
the other on one thread; those that are done are kept, one that was cut off resumes.

Shapes are ``layers x hidden``, with heads 32 wide and GeGLU neurons half as many again as features, as in ``nano``.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.console import Console

from padless.bench.command import at_least_one, settings_of, whole_number
from padless.bench.figures import newest_whole, read_figures
from padless.bench.growth_figures import CONTINUED, RANDOM, SOURCE, Curve, as_result, read_curve
from padless.bench.result import publish
from padless.bench.start import begin, run_failed
from padless.errors import ConfigError
from padless.saying import say_on

DEFAULTS = {
    "source": "4x64",
    "targets": "8x128,6x96",
    "variants": "all",
    "source_steps": "900",
    "steps": "300",
    "random_steps": "1000",
    "seeds": "0,1,2",
    "folder": "runs/bench/growth",
}
VARIANTS: dict[str, tuple[str, ...]] = {
    "tiled": (),
    "published": ("init.scale=published",),
    "edge": ("init.mode=edge",),
    "centre": ("init.mode=centre",),
    "noise": ("init.symmetry_noise_std=0.1",),
    "moments": ("init.tile_moments=true",),
    "silent": ("init.repeated_layers=silent",),
    "silent-noise": ("init.repeated_layers=silent", "init.symmetry_noise_std=0.1"),
}
BLOCK_TOKENS, BATCH_BLOCKS, SEGMENT_TOKENS = 512, 2, 64
STEP_TOKENS = BLOCK_TOKENS * BATCH_BLOCKS
PEAK_LR, WARMUP_STEPS = 3.0e-3, 30
EVALUATIONS = 10  # over ``steps``
_HEAD_WIDTH = 32
_SOURCE_SEED = 17
_PHASE = "short"


@dataclass(frozen=True)
class Shape:
    """Layers and width of a model."""

    layers: int
    hidden: int

    @property
    def name(self) -> str:
        """As settings write it."""
        return f"{self.layers}x{self.hidden}"

    def overrides(self) -> list[str]:
        """Return the settings of the model."""
        return [
            f"model.num_layers={self.layers}",
            f"model.hidden_size={self.hidden}",
            f"model.num_heads={self.hidden // _HEAD_WIDTH}",
            f"model.intermediate_size={self.hidden * 3 // 2}",
        ]


@dataclass(frozen=True)
class Plan:
    """What the bench was told."""

    source: Shape
    targets: tuple[Shape, ...]
    variants: tuple[str, ...] | None  # None takes those that tell something at each target
    source_steps: int
    steps: int
    random_steps: int
    seeds: tuple[int, ...]
    folder: Path


@dataclass(frozen=True)
class Job:
    """One run of ``train.py``."""

    name: str
    variant: str
    target: Shape  # what it is compared at
    shape: Shape  # what is trained: the target, or the source
    steps: int
    seed: int
    init: tuple[str, ...]  # settings of its first weights

    @property
    def work(self) -> int:
        """How long it takes, in a unit of its own."""
        return self.steps * self.shape.layers * self.shape.hidden


def bench(arguments: list[str], as_json: bool) -> None:
    """Run the bench.

    Args:
        arguments: ``key=value`` settings.
        as_json: print one JSON object on standard output.

    Raises:
        ConfigError: an unknown setting, a shape that is none, or a target that is smaller than the source.
        TrainingError: a run fails.
    """
    plan, say = parse(arguments), say_on(Console(stderr=as_json))
    curves = run_growth(plan, say)
    facts = {"source": plan.source.name, "source tokens": plan.source_steps * STEP_TOKENS, "peak LR": PEAK_LR}
    facts |= {"tokens a step": STEP_TOKENS, "steps": plan.steps, "steps of the random start": plan.random_steps}
    from padless.bench.growth_picture import draw_curves

    result = as_result(curves, plan.steps * STEP_TOKENS, facts)
    publish(result, plan.folder, as_json, lambda path: draw_curves(curves, path))


def parse(arguments: list[str]) -> Plan:
    """Return the plan that ``key=value`` settings give.

    Raises:
        ConfigError: an unknown setting or variant, a shape that is none, or a target that is smaller than the source.
    """
    told = settings_of(arguments, DEFAULTS)
    source = shape_of("source", told["source"])
    targets = tuple(shape_of("targets", text) for text in told["targets"].split(","))
    for target in targets:
        if target.layers < source.layers or target.hidden < source.hidden:
            raise ConfigError(
                f"targets={told['targets']}: {target.name} is smaller than the source, {source.name}",
                f"use e.g. targets={2 * source.layers}x{2 * source.hidden}",
            )
    chosen = None if told["variants"] == "all" else tuple(told["variants"].split(","))
    for name in chosen or ():
        if name not in VARIANTS:
            raise ConfigError(f"variants={name} is not one of {', '.join(VARIANTS)}", "write e.g. variants=tiled,noise")
    counts = {key: at_least_one(key, told[key]) for key in ("source_steps", "steps", "random_steps")}
    if counts["random_steps"] < counts["steps"]:
        raise ConfigError(
            f"random_steps={counts['random_steps']} is less than steps={counts['steps']}",
            "let the random start train at least as long as the others",
        )
    seeds = tuple(whole_number("seeds", text) for text in told["seeds"].split(","))
    return Plan(source, targets, chosen, **counts, seeds=seeds, folder=Path(told["folder"]).resolve())


def shape_of(key: str, text: str) -> Shape:
    """Return the shape that ``text`` writes, such as ``8x128``.

    Raises:
        ConfigError: it is none, or its width is not a multiple of a head's.
    """
    parts = text.split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"{key}={text} is not layers x hidden", f"write e.g. {key}={DEFAULTS[key].split(',')[0]}")
    shape = Shape(*map(int, parts))
    if shape.hidden % _HEAD_WIDTH:
        nearest = -(-shape.hidden // _HEAD_WIDTH) * _HEAD_WIDTH
        raise ConfigError(
            f"{key}={text}: a width of {shape.hidden} is not a multiple of a head's, {_HEAD_WIDTH}",
            f"use {shape.layers}x{nearest}",
        )
    return shape


def variants_at(plan: Plan, target: Shape) -> tuple[str, ...]:
    """Return the ways of tiling that are tried at a target.

    By default most at the first one, fewer at others. Where the width is a multiple of the source's, ``edge`` only puts
    the same values into another order, so it is tried where it is not.
    """
    if plan.variants is not None:
        return plan.variants
    is_multiple = target.hidden % plan.source.hidden == 0
    if not is_multiple:
        return ("tiled", "published", "edge")
    return tuple(name for name in VARIANTS if name != "edge") if target == plan.targets[0] else ("tiled", "published")


def jobs_of(plan: Plan) -> list[Job]:
    """Return all runs but the source's, target by target and seed by seed."""
    jobs = []
    source = source_job(plan)
    for target in plan.targets:
        for seed in plan.seeds:
            begin = f"{source.name}-to-{target.name}"
            name = f"{begin}-{RANDOM}-{plan.random_steps}-seed{seed}"
            jobs.append(Job(name, RANDOM, target, target, plan.random_steps, seed, ()))
            for variant in variants_at(plan, target):
                name, init = f"{begin}-{variant}-{plan.steps}-seed{seed}", ("init=tiled", *VARIANTS[variant])
                jobs.append(Job(name, variant, target, target, plan.steps, seed, init))
            name = f"{source.name}-{CONTINUED}-{plan.steps}-seed{seed}"  # the same for every target
            jobs.append(Job(name, CONTINUED, target, plan.source, plan.steps, seed, ("start=source",)))
    return jobs


def source_job(plan: Plan) -> Job:
    """Return the run that trains the source."""
    name = f"{plan.source.name}-{plan.source_steps}"
    return Job(name, SOURCE, plan.source, plan.source, plan.source_steps, _SOURCE_SEED, ())


def arguments_of(job: Job, plan: Plan, source: Path | None) -> list[str]:
    """Return the overrides of a run.

    Args:
        job: the run.
        plan: the bench's.
        source: checkpoint that it begins with, in its own way; a random start needs none.
    """
    tokens = job.steps * STEP_TOKENS
    phase = {
        "tokens": tokens,
        "max_seq_len": SEGMENT_TOKENS,
        "batch.blocks": BATCH_BLOCKS,
        "batch.warmup": "null",
        "lr.peak": PEAK_LR,
        "lr.warmup_tokens": min(WARMUP_STEPS, job.steps) * STEP_TOKENS,
        "shuffle_seed": job.seed,
        "save_every_tokens": max(1, job.steps // 2) * STEP_TOKENS,
        "eval_every_tokens": max(1, plan.steps // EVALUATIONS) * STEP_TOKENS,
    }
    data = plan.folder / "prepared"
    return [
        "recipe=demo",
        "hardware=cpu",
        "hardware.num_threads=1",
        f"phase_order=[{_PHASE}]",
        "~phases.context",
        "~phases.anneal",
        f"run.folder={plan.folder / 'runs'}",
        f"run.name={job.name}",
        f"run.seed={job.seed}",
        "run.keep_newest_checkpoints=1",
        "export.enabled=false",
        "eval.max_blocks=24",
        *job.shape.overrides(),
        *(f"data.streams.{name}.local={data / name}" for name in ("general", "code", "science")),
        *(f"phases.{_PHASE}.{key}={value}" for key, value in phase.items()),
        *_first_weights(job, source),
    ]


def _first_weights(job: Job, source: Path | None) -> list[str]:
    if not job.init:
        return []
    group = job.init[0].split("=")[0]  # init=tiled or start=source
    return [job.init[0], f"{group}.source={source}", *job.init[1:]]


def run_growth(plan: Plan, say: Callable[[str], None]) -> list[Curve]:
    """Train what is not trained yet, and return the curve of every run.

    Args:
        plan: the bench's.
        say: prints one line a run, with the time left.

    Raises:
        TrainingError: a run fails.
    """
    first, jobs = source_job(plan), jobs_of(plan)
    runs = plan.folder / "runs"
    if not is_done(runs / first.name, first):
        say(f"source {first.name}: {first.steps} steps")
        _train(first, plan, None)
    source = newest_whole(runs / first.name)[1]
    done_work, spent_s = 0, 0.0
    for number, job in enumerate(jobs):
        if is_done(runs / job.name, job):
            continue
        began_s = time.monotonic()
        _train(job, plan, source)
        shutil.rmtree(runs / job.name / "checkpoints", ignore_errors=True)  # nothing starts from it
        spent_s, done_work = spent_s + time.monotonic() - began_s, done_work + job.work
        left = sum(each.work for each in jobs[number + 1 :] if not is_done(runs / each.name, each))
        loss = _curve(job, runs).evaluations[-1][1]
        eta = timedelta(seconds=round(spent_s / done_work * left))
        say(f"{number + 1}/{len(jobs)} {job.name}: validation loss {loss:.4f}  ETA {eta}")
    return [_curve(each, runs) for each in (first, *jobs)]


def _curve(job: Job, runs: Path) -> Curve:
    return read_curve(runs / job.name, job.variant, job.target.name, job.seed)


def is_done(folder: Path, job: Job) -> bool:
    """Return whether the run in ``folder`` has been evaluated at its end."""
    lines = [line for line in read_figures(folder) if "eval_loss" in line]
    return bool(lines) and lines[-1]["tokens"] >= job.steps * STEP_TOKENS and _ended(folder)


def _ended(folder: Path) -> bool:
    path = folder / "status.json"
    return path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("state") == "finished"


def _train(job: Job, plan: Plan, source: Path | None) -> None:
    folder, log = plan.folder / "runs" / job.name, plan.folder / "logs" / f"{job.name}.log"
    start = begin(arguments_of(job, plan, source), folder, log, "python", 1, None)
    try:
        code = start.process.wait()
    finally:
        start.clear(0.0)
    if code != 0 or not is_done(folder, job):
        raise run_failed(start, job.name)
