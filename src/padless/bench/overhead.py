"""``padless bench overhead``: what the trainer adds to a step, against a bare loop with the same model and batches.

Both train the same two phases, one microbatch a step and several, in processes of their own that share one core at the
same time, so that whatever else the machine does touches both: processor seconds are compared, not the clock. The model
is tiny, so that little else is in a step. What is added with one microbatch is the overhead of a step; what each of
several more adds to that, the overhead of a further microbatch. Times are means over windows of ten steps, which all
that is logged now and then falls into, and of these the least quarter: what else the machine does only ever adds.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from padless.bench.command import settings_of, whole_number
from padless.bench.corpus import BLOCK_TOKENS, CAPS, prepare_small
from padless.bench.figures import read_steps
from padless.bench.machine import pin_to_one_core
from padless.bench.result import BenchResult, Figure, Ratio, publish
from padless.bench.start import TRAIN
from padless.errors import ConfigError, TrainingError
from padless.processes import without_launcher
from padless.saying import say_on

STEP_TARGET_MS, MICROBATCH_TARGET_MS = 2.0, 0.5
SIDES = ("bare loop", "trainer")
PHASES = ("short", "context")  # of the smoke recipe: one microbatch a step, several
WARM_STEPS = 20  # of each phase, not counted
WINDOW_STEPS = 10  # as run.log_every_steps
_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Cut:
    """How long each process trains: microbatches of a step in the second phase, and its steps.

    The first phase has as many microbatches in all, so that it is as long.
    """

    microbatches: int
    steps: int


DEFAULTS = {"repeats": "5", "steps": "200", "microbatches": "8", "folder": "runs/bench/overhead"}


def bench(arguments: list[str], as_json: bool) -> None:
    """Run the bench.

    Args:
        arguments: ``key=value`` settings.
        as_json: print one JSON object on standard output.

    Raises:
        ConfigError: an unknown setting, or one too small to measure anything.
        TrainingError: a process fails.
    """
    settings = settings_of(arguments, DEFAULTS)
    repeats, steps, microbatches = (whole_number(key, settings[key]) for key in ("repeats", "steps", "microbatches"))
    for key, value, least in (
        ("repeats", repeats, 1),
        ("steps", steps, 2 * WARM_STEPS),
        ("microbatches", microbatches, 2),
    ):
        if value < least:
            raise ConfigError(f"{key}={value} is less than {least}", f"use e.g. {key}={DEFAULTS[key]}")
    folder = Path(settings["folder"]).resolve()
    pin_to_one_core()
    publish(run_overhead(folder, Cut(microbatches, steps), repeats, say_on(Console(stderr=as_json))), folder, as_json)


def run_overhead(folder: Path, cut: Cut, repeats: int, say: Callable[[str], None]) -> BenchResult:
    """Measure both sides, side by side.

    Args:
        folder: gets the corpus (kept for the next time), runs and logs.
        cut: length of each process.
        repeats: processes of each side.
        say: prints one line.

    Raises:
        TrainingError: a process fails.
    """
    arguments = overhead_arguments(prepare_small(folder / "prepared"), cut)
    measured: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for number in range(repeats):
        for side, found in _measure(folder, arguments).items():
            measured[side].append(found)
        added = {phase: measured["trainer"][-1][phase] - measured["bare loop"][-1][phase] for phase in PHASES}
        say(
            f"{number + 1}/{repeats}  added to a step: {added[PHASES[0]]:.2f} ms with 1 microbatch, "
            f"{added[PHASES[1]]:.2f} ms with {cut.microbatches}"
        )
    return as_result(measured, cut)


def as_result(measured: Mapping[str, Sequence[Mapping[str, float]]], cut: Cut) -> BenchResult:
    """Return figures and ratios of what was measured.

    Args:
        measured: for each side, for each repeat, the median milliseconds of a step of each phase.
        cut: length of each process.
    """
    cases = dict(zip(PHASES, ("1 microbatch", f"{cut.microbatches} microbatches"), strict=True))
    result = BenchResult("overhead")
    for phase, case in cases.items():
        for side in SIDES:
            values = tuple(each[phase] for each in measured[side])
            result.figures.append(Figure(case, side, "CPU ms a step", values))
    pairs = list(zip(measured["trainer"], measured["bare loop"], strict=True))
    step = tuple(ours[PHASES[0]] - bare[PHASES[0]] for ours, bare in pairs)
    several = tuple(ours[PHASES[1]] - bare[PHASES[1]] for ours, bare in pairs)
    further = tuple((more - one) / (cut.microbatches - 1) for more, one in zip(several, step, strict=True))
    result.ratios = [
        Ratio("CPU ms that the trainer adds to a step of one microbatch", step, STEP_TARGET_MS, True),
        Ratio("CPU ms that it adds for each further microbatch", further, MICROBATCH_TARGET_MS, True),
    ]
    result.facts = {"microbatches": cut.microbatches, "steps": cut.steps, "not counted": f"{WARM_STEPS} a phase"}
    return result


def overhead_arguments(data: Path, cut: Cut) -> list[str]:
    """Return the overrides that both sides get."""
    tokens = cut.steps * cut.microbatches * BLOCK_TOKENS
    phases: dict[str, dict[str, Any]] = {
        PHASES[0]: {"tokens": tokens, "batch.blocks": 1, "batch.warmup": "null"},
        PHASES[1]: {"tokens": tokens, "batch.blocks": cut.microbatches},
    }
    for phase in phases.values():
        intervals = dict.fromkeys(("save_every_tokens", "eval_every_tokens"), phase["tokens"])
        phase |= {**intervals, "max_seq_len": max(CAPS), "batch.quantum_blocks": 1}
    return [
        "recipe=smoke",
        "hardware=cpu",
        "hardware.num_threads=1",
        "data.prepare_bundled=false",
        "data.num_workers=0",
        "data.num_canonical_nodes=1",
        f"run.log_every_steps={WINDOW_STEPS}",
        "export.enabled=false",
        f"data.block_tokens={BLOCK_TOKENS}",
        "eval.max_blocks=1",
        f"phase_order=[{','.join(PHASES)}]",
        "~phases.anneal",
        *(f"data.streams.{name}.local={data / name}" for name in ("general", "code", "science")),
        *(f"phases.{name}.{key}={value}" for name, phase in phases.items() for key, value in phase.items()),
    ]


def _measure(folder: Path, arguments: list[str]) -> dict[str, dict[str, float]]:
    """Run one process of each side at the same time, and return the CPU milliseconds of a step of each phase."""
    shutil.rmtree(folder / "smoke", ignore_errors=True)
    out = folder / "bare.json"
    words = {
        "bare loop": ["-m", "padless.train.bare_loop", str(out), *arguments],
        "trainer": [str(TRAIN), *arguments, f"run.folder={folder}"],
    }
    run_together({folder / f"{side.replace(' ', '-')}.log": each for side, each in words.items()})
    bare, trainer = json.loads(out.read_text(encoding="utf-8")), read_steps(folder / "smoke")
    return {"bare loop": quiet_ms(bare), "trainer": quiet_ms(trainer)}


def quiet_ms(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the CPU milliseconds of a step of each phase: the lower quartile of windows, without the first steps."""
    phases: dict[str, list[float]] = {}
    for step in steps:
        phases.setdefault(step["phase"], []).append(1e3 * step["cpu_seconds"])
    return {phase: _lower_quartile(_window_means(values[WARM_STEPS:])) for phase, values in phases.items()}


def _window_means(values: Sequence[float]) -> list[float]:
    starts = range(0, len(values) - WINDOW_STEPS + 1, WINDOW_STEPS)
    return [statistics.fmean(values[start : start + WINDOW_STEPS]) for start in starts]


def _lower_quartile(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 4]


def run_together(words_by_log: Mapping[Path, list[str]]) -> None:
    """Run Python processes at the same time and wait for all.

    Args:
        words_by_log: arguments of each, by the file that gets its output.

    Raises:
        TrainingError: one of them fails; the others are ended.
    """
    started = {log: _start(words, log) for log, words in words_by_log.items()}
    try:
        for log, process in started.items():
            if process.wait(timeout=_TIMEOUT_S) != 0:
                name = " ".join(words_by_log[log][:2])
                raise TrainingError(f"{name} ended with code {process.returncode}", f"read {log}")
    finally:
        for process in started.values():
            process.kill()
            process.wait()


def _start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=TRAIN.parent,
            env=without_launcher(os.environ) | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
