"""``padless bench resume``: does a resume take longer the further a run is? Runs at 1 % and at 99 % of the data.

The state in both is that of a real run's first step, its clock moved; metrics have a line for every step up to there.
Each is resumed for one step by ``train.py``, by turns, in processes of their own.
"""

import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from padless.bench.corpus import prepare_many
from padless.bench.figures import newest_whole, read_steps
from padless.bench.start import POLL_S, Sighting, Start, begin, run_failed
from padless.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint
from padless.config.compose import compose
from padless.config.load import config_hash
from padless.errors import ConfigError, TrainingError
from padless.schedule.phases import plan_phases

MAX_RATIO = 1.2
PLACES = (1, 99)  # per cent of the data
BLOCK_TOKENS = 16
BATCH_BLOCKS = 16
PHASE, STREAM, RUN_NAME = "short", "general", "smoke"
MIN_BLOCKS = 100 * BATCH_BLOCKS
START_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Times:
    """Seconds of each repeat at one place: to the first batch (from the run function), to the first step (process)."""

    per_cent: int
    first_batch_s: tuple[float, ...]
    first_step_s: tuple[float, ...]


@dataclass(frozen=True)
class ResumeResult:
    """What a run of the bench measured."""

    blocks: int
    times: tuple[Times, ...]

    @property
    def ratio(self) -> float:
        """Median time to the first batch at the last place, over that at the first."""
        return statistics.median(self.times[-1].first_batch_s) / statistics.median(self.times[0].first_batch_s)

    @property
    def process_ratio(self) -> float:
        """The same from the start of the process to the first step."""
        return statistics.median(self.times[-1].first_step_s) / statistics.median(self.times[0].first_step_s)

    @property
    def passed(self) -> bool:
        """Whether the time does not grow with the position."""
        return self.ratio < MAX_RATIO

    def as_plain(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return {
            "ok": self.passed,
            "blocks": self.blocks,
            "ratio": round(self.ratio, 3),
            "process_ratio": round(self.process_ratio, 3),
            "max_ratio": MAX_RATIO,
            "times": [
                {
                    "per_cent": each.per_cent,
                    "first_batch_s": list(each.first_batch_s),
                    "first_step_s": [round(seconds, 3) for seconds in each.first_step_s],
                }
                for each in self.times
            ],
        }


def as_markdown(result: ResumeResult) -> str:
    """Return the figures as a table: min / median / max in seconds."""
    lines = [
        f"A resume in {result.blocks:,} blocks of {BLOCK_TOKENS} tokens, seconds as min / median / max of "
        f"{len(result.times[0].first_batch_s)}",
        "",
        "| at | run function to first batch | process to first step |",
        "| --- | --- | --- |",
    ]
    for each in result.times:
        lines.append(f"| {each.per_cent} % | {_three(each.first_batch_s)} | {_three(each.first_step_s)} |")
    lines.append(f"| ratio of medians | {result.ratio:.2f} (must be < {MAX_RATIO}) | {result.process_ratio:.2f} |")
    return "\n".join(lines) + "\n"


def require_constant(result: ResumeResult, folder: Path) -> None:
    """Stop if the time to the first batch grows with the position.

    Raises:
        TrainingError: the ratio of medians is not under :data:`MAX_RATIO`.
    """
    if not result.passed:
        raise TrainingError(
            f"a resume at 99 % of the data takes {result.ratio:.2f} times that at 1 %, not under {MAX_RATIO}",
            f"something grows with the position; see {folder / 'resume.json'}, and repeat on an idle machine",
        )


def _three(seconds: tuple[float, ...]) -> str:
    return f"{min(seconds):.2f} / {statistics.median(seconds):.2f} / {max(seconds):.2f}"


def resume_arguments(data: Path, blocks: int) -> list[str]:
    """Return the overrides of the bench's runs, but for folder and end: one phase that takes each block once."""
    removed = ("data.streams.code", "data.streams.science", "phases.context", "phases.anneal")
    removed += (f"phases.{PHASE}.streams.code", f"phases.{PHASE}.streams.science")
    tokens = blocks * BLOCK_TOKENS
    phase = {
        "tokens": tokens,
        "max_seq_len": BLOCK_TOKENS,
        "save_every_tokens": tokens,
        "eval_every_tokens": tokens,
        "batch.blocks": BATCH_BLOCKS,
        "batch.quantum_blocks": BATCH_BLOCKS,
        "batch.warmup": "null",
        f"streams.{STREAM}": 1.0,
    }
    return [
        "recipe=smoke",
        "hardware=cpu",
        "data.prepare_bundled=false",
        "export.enabled=false",
        f"phase_order=[{PHASE}]",
        f"data.block_tokens={BLOCK_TOKENS}",
        f"data.streams.{STREAM}.local={data}",
        f"eval.streams=[{STREAM}]",
        f"eval.max_seq_len={BLOCK_TOKENS}",
        *(f"~{key}" for key in removed),
        *(f"phases.{PHASE}.{key}={value}" for key, value in phase.items()),
    ]


def run_resume(folder: Path, blocks: int, repeats: int, say: Callable[[str], None]) -> ResumeResult:
    """Measure resumes at both places.

    Args:
        folder: gets the corpus (kept for the next time), runs and logs.
        blocks: of the corpus.
        repeats: resumes at each place.
        say: prints one line.

    Raises:
        ConfigError: too few blocks, or no repeat.
        TrainingError: a run fails.
    """
    if blocks < MIN_BLOCKS:
        raise ConfigError(
            f"blocks={blocks} is less than {MIN_BLOCKS}, a step for each per cent", "use blocks=1_000_000"
        )
    if repeats < 1:
        raise ConfigError(f"repeats={repeats} is less than 1", "use e.g. repeats=3")
    folder = folder.resolve()
    say(f"{blocks:,} blocks of {BLOCK_TOKENS} tokens")
    arguments = resume_arguments(prepare_many(folder / f"prepared-{blocks}", blocks, BLOCK_TOKENS), blocks)
    say("a run of one step, whose state the others go on from")
    seed = folder / "first"
    shutil.rmtree(seed, ignore_errors=True)
    _run_step([*arguments, f"run.folder={seed}"], seed, 0)
    places = {per_cent: folder / f"at-{per_cent}" for per_cent in PLACES}
    clocks = {each: craft(seed / RUN_NAME, place / RUN_NAME, arguments, each) for each, place in places.items()}
    found: dict[int, list[tuple[float, float]]] = {per_cent: [] for per_cent in PLACES}
    for number in range(repeats):
        for per_cent, place in places.items():
            craft(seed / RUN_NAME, place / RUN_NAME, arguments, per_cent)
            start = _run_step([*arguments, f"run.folder={place}"], place, clocks[per_cent])
            batch_s, step_s = resume_times(start.seen, clocks[per_cent], start.log)
            found[per_cent].append((batch_s, step_s))
            say(
                f"{number + 1}/{repeats}  at {per_cent:>2} %: first batch after {batch_s:.2f} s, "
                f"first step {step_s:.2f} s after the start of the process"
            )
    times = [
        Times(per_cent, tuple(batch for batch, _ in each), tuple(step for _, step in each))
        for per_cent, each in found.items()
    ]
    return ResumeResult(blocks, tuple(times))


def resume_times(seen: Sighting, clock_tokens: int, log: Path) -> tuple[float, float]:
    """Return the seconds to the first batch and to the first step.

    Raises:
        TrainingError: the run did not resume where it should have.
    """
    if seen.first_batch_s is None or seen.first_step_s is None or seen.resumed_tokens != clock_tokens:
        raise TrainingError(f"the run did not resume at {clock_tokens:_} tokens", f"read {log}")
    return seen.first_batch_s, seen.first_step_s


def craft(seed: Path, run_folder: Path, arguments: list[str], per_cent: int) -> int:
    """Make a run folder whose clock is ``per_cent`` of the data, from that of a run of one step; return the clock."""
    shutil.rmtree(run_folder, ignore_errors=True)
    shutil.copytree(seed, run_folder, ignore=shutil.ignore_patterns("checkpoints", "metrics.jsonl"))
    config = compose(arguments)
    plan = plan_phases(config)[0]
    steps = plan.steps_in_phase * per_cent // 100
    clock = plan.clock_at_step(steps)
    _, path = newest_whole(seed)
    if path is None:
        raise TrainingError(f"{seed} has no checkpoint", "read the log beside it")
    saved = load_checkpoint(path)
    facts = {**saved.meta, "clock_tokens": clock, "step": steps}
    save_checkpoint(checkpoint_path(run_folder, PHASE, clock), replace(saved, meta=facts), config_hash(config))
    line = read_steps(seed)[0]
    with (run_folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in range(1, steps + 1):
            file.write(json.dumps({**line, "step": step, "tokens": plan.clock_at_step(step)}) + "\n")
    return clock


def _run_step(arguments: list[str], folder: Path, clock_tokens: int) -> Start:
    """Run one step from a clock on, to an orderly end."""
    end = f"run.stop_after_tokens={clock_tokens + BATCH_BLOCKS * BLOCK_TOKENS}"
    start = begin([*arguments, end], folder / RUN_NAME, folder / "log.txt", "python", 1, None)
    while not start.has_ended() and time.monotonic() - start.began_s < START_TIMEOUT_S:
        start.look()
        time.sleep(POLL_S)
    start.look()
    start.clear(0.0)
    if start.process.returncode != 0:
        raise run_failed(start, "a run")
    return start
