"""``padless bench chaos``: kill a run again and again; in the end it has to be the run that nobody killed, bit for bit.

For each number of processes: one uninterrupted run, and one in another folder that is killed by plan and started again
by the same command each time, then left to finish. All on the CPU, where sums are the same in every run.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from padless.bench.compare import differences
from padless.bench.corpus import prepare_small
from padless.bench.figures import clock_of, newest_whole
from padless.bench.kills import FROM_OUTSIDE, STARTUP, Kill, plan_kills
from padless.bench.moments import Moments, moments_of
from padless.bench.start import POLL_S, Start, begin, run_failed
from padless.config.compose import compose
from padless.data.manifest import read_manifest

GONE_WITHIN_S = 30.0  # after the first death, all other processes of a start have to be gone
START_TIMEOUT_S = 240.0
RUN_NAME = "smoke"
SETTINGS = (
    "recipe=smoke",
    "hardware=cpu",
    "data.prepare_bundled=false",
    "run.keep_newest_checkpoints=2",
    "model.mlp_dropout=0.1",
    "phases.context.save_every_tokens=3K",
    "phases.anneal.save_every_tokens=3K",
    "phases.short.eval_every_tokens=9K",
    "phases.context.eval_every_tokens=9K",
    "phases.anneal.eval_every_tokens=9K",
)
_LOOK_FOR_DEATHS_S = 0.2


@dataclass
class Outcome:
    """What one kill did.

    Attributes:
        kill: the plan.
        happened: whether it was done before the start ended by itself.
        clock_tokens: clock of the last step before it.
        resumed_tokens: clock the next start went on from; None until one came up.
        wall_s: when it was done, since the series began.
        gone_s: until all processes of the start were gone.
        survivors: processes that were not gone in time and had to be killed.
        resume_s: from the start of the next process that came up to its first new step; None if it had none to do.
        first_batch_s: the same process's own figure, from its run function to its first batch.
        came_up: whether a later start had a new step or an orderly end.
        problem: why the start ended otherwise than planned, or None.
    """

    kill: Kill
    happened: bool
    clock_tokens: int
    wall_s: float
    gone_s: float
    survivors: int
    resumed_tokens: int | None = None
    resume_s: float | None = None
    first_batch_s: float | None = None
    came_up: bool = False
    problem: str | None = None


@dataclass
class Series:
    """All kills of one number of processes, and how the run ended."""

    processes: int
    outcomes: list[Outcome] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)  # from the uninterrupted run; empty is bit-equal
    clocks: list[list[tuple[float, int]]] = field(default_factory=list)  # of each start: seconds in the series, clock

    def survived(self, outcome: Outcome) -> bool:
        """Whether the kill was done, nothing outlived it, a restart came up and the run ended bit-equal."""
        return outcome.happened and outcome.came_up and outcome.survivors == 0 and not self.differences


Tell = Callable[[Outcome], None]


def prepared_arguments(data: Path) -> list[str]:
    """Return the overrides of all runs of the bench, but for their folder."""
    return [*SETTINGS, *(f"data.streams.{name}.local={data / name}" for name in ("general", "code", "science"))]


def chaos_moments(arguments: Sequence[str]) -> Moments:
    """Return when the events of a run with these overrides happen."""
    from padless.data.mds import pass_blocks  # Streaming

    config = compose(arguments)
    manifests = {name: read_manifest(Path(stream.local)) for name, stream in config.data.streams.items()}
    passes = {
        name: pass_blocks(
            sum(manifests[stream].split(phase.max_seq_len, "train").num_blocks for stream in phase.streams),
            phase.batch.quantum_blocks,
        )
        for name, phase in config.phases.items()
    }
    validation = sum(manifests[name].split(config.eval.max_seq_len, "val").num_blocks for name in config.eval.streams)
    return moments_of(config, passes, min(validation, config.eval.max_blocks or validation))


def run_chaos(
    folder: Path,
    count: int,
    seed: int,
    processes: Sequence[int],
    tell: Tell,
    say: Callable[[str], None],
) -> list[Series]:
    """Do ``count`` kills and return what became of the runs, one series for each number of processes.

    Args:
        folder: gets data, runs and logs; runs of an earlier bench in it are deleted.
        count: kills in all.
        seed: of the plan.
        processes: numbers of ranks, each with its own runs.
        tell: is told each kill once it is known what came after it.
        say: prints one line.

    Raises:
        ConfigError: the kills cannot be planned.
        TrainingError: a run that nobody killed fails, or does not end.
    """
    folder = folder.resolve()
    arguments = prepared_arguments(prepare_small(folder / "prepared"))
    kills = plan_kills(count, seed, processes, chaos_moments(arguments))
    series = []
    for size in processes:
        own = [kill for kill in kills if kill.processes == size]
        reference, killed = folder / f"reference-{size}", folder / f"killed-{size}"
        for each in (reference, killed):
            shutil.rmtree(each, ignore_errors=True)
        say(f"the uninterrupted run, {size} process(es)")
        run_whole([*arguments, f"run.folder={reference}"], reference, size)
        series.append(_Chaos([*arguments, f"run.folder={killed}"], killed, size, tell).run(own, reference))
    return series


def run_whole(arguments: list[str], folder: Path, size: int) -> None:
    """Run to the end without a kill.

    Raises:
        TrainingError: it fails or does not end.
    """
    start = begin(arguments, folder / RUN_NAME, folder / "log.txt", "python" if size == 1 else "torchrun", size, None)
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not start.has_ended() and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    ended = start.has_ended()
    start.clear(GONE_WITHIN_S if ended else 0.0)
    if not ended or start.process.returncode != 0:
        raise run_failed(
            start, "the uninterrupted run" + ("" if ended else f" does not end within {START_TIMEOUT_S:.0f} s")
        )


def _problem(start: Start, happened: bool, ended_orderly: bool, survivors: dict[int, str]) -> str | None:
    if survivors:
        who = ", ".join(f"rank {rank}" if rank else "the launcher" for rank in survivors.values())
        return f"still there after {GONE_WITHIN_S:.0f} s: {who}"
    if happened:
        return None
    return "not reached" if ended_orderly else run_failed(start, "the start").cause


class _Chaos:
    """Kills one run by plan."""

    def __init__(self, arguments: list[str], folder: Path, size: int, tell: Tell) -> None:
        self._arguments, self._folder, self._size, self._tell = arguments, folder, size, tell
        self._series = Series(size)
        self._moments = chaos_moments(arguments)
        self._waiting: list[Outcome] = []  # kills after which no start has come up yet
        self._began_s = time.monotonic()

    def run(self, kills: Sequence[Kill], reference: Path) -> Series:
        for kill in kills:
            self._watch(self._begin(kill), kill)
        last = self._begin(None)
        self._watch(last, None)
        if last.process.returncode != 0:
            self._series.differences.append(str(run_failed(last, "the last start, which nobody killed,").cause))
        else:
            self._series.differences += differences(reference / RUN_NAME, self._folder / RUN_NAME)
        for outcome in self._waiting:
            self._tell(outcome)
        return self._series

    def _begin(self, kill: Kill | None) -> Start:
        run_folder = self._folder / RUN_NAME
        launcher = kill.launcher if kill is not None else "python" if self._size == 1 else "torchrun"
        wish = None
        if kill is not None and kill.event not in FROM_OUTSIDE:
            resumed, _ = newest_whole(run_folder)
            number = self._moments.number_in_start(kill.named_event, kill.clock_tokens, resumed, kill.rank, self._size)
            wish = f"{kill.named_event}:{number}:{kill.rank}:{kill.target}"
        log = self._folder / "logs" / f"{'last' if kill is None else f'{kill.number:02d}-{kill.event}'}.txt"
        return begin(self._arguments, run_folder, log, launcher, self._size, wish)

    def _watch(self, start: Start, kill: Kill | None) -> None:
        """Follow a start to its end, planned or not; note what became of the kill before it and of its own."""
        clock, death_s = 0, None
        self._series.clocks.append([])
        outside = _OutsideKill(start, kill) if kill is not None and kill.event in FROM_OUTSIDE else None
        deaths = _Deaths(start)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not start.has_ended() and time.monotonic() < deadline_s:
            seen = start.look()
            if seen.resumed_tokens is not None or seen.phases_done:
                clock = self._note_clock(clock)
            self._note_came_up(start)
            if outside is not None and death_s is None and outside.is_due(clock):
                outside.do()
                death_s = time.monotonic()
            if death_s is None and deaths.one_is_gone():
                death_s = time.monotonic()
            if death_s is not None and time.monotonic() - death_s > GONE_WITHIN_S:
                break
            time.sleep(POLL_S)
        clock = self._note_clock(clock)
        ended_orderly = start.process.poll() == 0
        waited_s = time.monotonic() - death_s if death_s is not None else 0.0
        more_s, survivors = start.clear(max(0.0, GONE_WITHIN_S - waited_s) if start.has_ended() else 0.0)
        self._note_came_up(start, ended_orderly)
        if kill is not None:
            happened = not ended_orderly and (start.was_killed() if outside is None else outside.done)
            gone_s = waited_s + more_s
            killed_s = time.monotonic() - self._began_s - gone_s
            outcome = Outcome(kill, happened, clock, killed_s, gone_s, len(survivors))
            outcome.problem = _problem(start, happened, ended_orderly, survivors)
            self._series.outcomes.append(outcome)
            self._waiting.append(outcome)

    def _note_clock(self, before: int) -> int:
        clock = clock_of(self._folder / RUN_NAME)
        if clock != before:
            self._series.clocks[-1].append((time.monotonic() - self._began_s, clock))
        return clock

    def _note_came_up(self, start: Start, ended_orderly: bool = False) -> None:
        seen = start.look()
        if seen.first_step_s is None and not seen.phases_done and not ended_orderly:
            return
        for outcome in self._waiting:
            outcome.came_up, outcome.resume_s, outcome.first_batch_s = True, seen.first_step_s, seen.first_batch_s
            outcome.resumed_tokens = seen.resumed_tokens
            self._tell(outcome)
        self._waiting.clear()


class _OutsideKill:
    """A kill that does not wait for a named event: while a run starts up, or at a clock and a bit."""

    def __init__(self, start: Start, kill: Kill) -> None:
        self._start, self._kill = start, kill
        self._due_s: float | None = None
        self.done = False

    def is_due(self, clock_tokens: int) -> bool:
        begun = self._start.seen.resumed_tokens is not None
        if self._due_s is None and self._may_wait(begun, clock_tokens):
            self._due_s = time.monotonic() + self._kill.delay_s
        if self._due_s is None:
            return False
        return time.monotonic() >= self._due_s or (self._kill.event == STARTUP and begun)

    def _may_wait(self, begun: bool, clock_tokens: int) -> bool:
        if self._kill.event == STARTUP:
            return len(self._start.rank_pids()) == self._kill.processes
        return begun and clock_tokens >= self._kill.clock_tokens

    def do(self) -> None:
        self._start.kill(self._kill.target, self._kill.rank)
        self.done = True


class _Deaths:
    """Looks now and then whether a rank that was there is gone."""

    def __init__(self, start: Start) -> None:
        self._start, self._ranks, self._looked_s = start, set[int](), 0.0

    def one_is_gone(self) -> bool:
        if time.monotonic() - self._looked_s < _LOOK_FOR_DEATHS_S:
            return False
        self._looked_s = time.monotonic()
        here = set(self._start.rank_pids().values())
        self._ranks |= here
        return self._ranks != here
