"""One run of several implementations side by side: how it is done, and what it says about each.

They take turns batch by batch, each in a process of its own; between groups of batches another process measures the
core's matrix ceiling. Time is processor seconds, tokens are real ones, and both sides' batches are those of
:mod:`padless.bench.lengths`: the same documents over a run, so that a ratio over a whole run is of equal work.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from padless.bench.lengths import CASES, Workload, draw_workload
from padless.bench.shapes import PADLESS, shape_of
from padless.bench.turns import take_turns, workers
from padless.plan.flops import forward_flops, step_flops

GROUP_BATCHES = 5
STEP, ENCODE = "step", "encode"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """One shape, case and seed.

    Args:
        job: ``step`` (forward, backward, optimizer) or ``encode`` (hidden states, no gradients).
        shape: name of one of :data:`padless.bench.shapes.SHAPES`.
        case: name of one of :data:`padless.bench.lengths.CASES`.
        seed: of the documents.
        against: peers, by name.
        batches: measured ones.
        warmup: batches before them.
        tokens: of a packed batch.
        rows: most documents a peer computes at once.
        precision: ``bf16`` or ``fp32``.
        backend: our attention backend.
        is_compiled: compile every implementation's layers.
        allocator: of all processes.
    """

    job: str
    shape: str
    case: str
    seed: int
    against: tuple[str, ...] = ("sparse", "dense")
    batches: int = 20
    warmup: int = 3
    tokens: int = 8192
    rows: int = 32
    precision: str = "bf16"
    backend: str = "blocked"
    is_compiled: bool = False
    allocator: str = "default"

    @property
    def total_batches(self) -> int:
        """Batches that documents are drawn for."""
        return self.warmup + self.batches

    def workload(self) -> Workload:
        """Return the documents; every process draws the same."""
        vocab_size = shape_of(self.shape).vocab_size
        case = CASES[self.case]
        return draw_workload(case, self.total_batches, self.tokens, vocab_size, self.seed, rows=self.rows)

    def job_of(self, who: str) -> dict[str, Any]:
        """Return what a worker (:mod:`padless.bench.jobs`) is told."""
        return {
            "job": self.job,
            "who": who,
            "shape": self.shape,
            "case": self.case,
            "seed": self.seed,
            "batches": self.total_batches,
            "tokens": self.tokens,
            "rows": self.rows,
            "precision": self.precision,
            "backend": self.backend,
            "is_compiled": self.is_compiled,
        }


@dataclass
class Run:
    """What each implementation spent, one value a measured batch."""

    setting: Setting
    padding: float  # tokens a peer computes for a real one
    tokens: dict[str, list[int]] = field(default_factory=dict)
    cpu_s: dict[str, list[float]] = field(default_factory=dict)
    peak_bytes: dict[str, list[int]] = field(default_factory=dict)
    flops: list[int] = field(default_factory=list)  # necessary ones of our batches
    ceilings: list[float] = field(default_factory=list)  # GFLOP/s, before each group of batches and after the last

    def rate(self, who: str, part: slice = slice(None)) -> float:
        """Return real tokens a processor second, over the run or a part of it."""
        return sum(self.tokens[who][part]) / sum(self.cpu_s[who][part])

    def rates(self, who: str) -> list[float]:
        """Return real tokens a processor second, batch by batch."""
        return [self.rate(who, slice(number, number + 1)) for number in range(len(self.cpu_s[who]))]

    def groups(self) -> list[slice]:
        """Return the run in groups of :data:`GROUP_BATCHES` batches."""
        return [slice(start, start + GROUP_BATCHES) for start in range(0, len(self.flops), GROUP_BATCHES)]

    def ratio(self, who: str, part: slice = slice(None)) -> float:
        """Return how many times our rate is that of ``who``."""
        return self.rate(PADLESS, part) / self.rate(who, part)

    def flops_per_token(self) -> float:
        """Return the necessary operations of a real token, on average."""
        return sum(self.flops) / sum(self.tokens[PADLESS])

    def rate_at_ceiling(self) -> float:
        """Return the real tokens a second if there were only necessary arithmetic, at the best ceiling."""
        return max(self.ceilings) * 1e9 / self.flops_per_token()

    def shares(self) -> list[float]:
        """Return the share of the ceiling that the necessary arithmetic reaches, group by group.

        A group's ceiling is the better of those measured right before and right after it.
        """
        return [
            sum(self.flops[part]) / sum(self.cpu_s[PADLESS][part]) / 1e9 / max(self.ceilings[number : number + 2])
            for number, part in enumerate(self.groups())
        ]


def measure(setting: Setting, logs: Path, say: Say) -> Run:
    """Have one setting's batches done, warm-up first.

    Args:
        setting: what.
        logs: folder of the processes' logs.
        say: is told each batch.

    Raises:
        ConfigError: the allocator is unknown.
        TrainingError: a process failed.
    """
    workload = setting.workload()
    run = Run(setting, workload.padding_factor())
    names = (PADLESS, *setting.against)
    jobs: dict[str, Mapping[str, Any]] = {name: setting.job_of(name) for name in names}
    jobs["ceiling"] = {"job": "ceiling", "precision": setting.precision}
    with workers(jobs, logs, setting.allocator) as here:
        ceiling = here.pop("ceiling")
        for _ in take_turns(here, range(setting.warmup)):
            pass
        for worker in here.values():
            worker.clear_peak()
        for number, spent in take_turns(here, range(setting.warmup, setting.total_batches)):
            if len(run.flops) % GROUP_BATCHES == 0:
                run.ceilings.append(ceiling.do(0)["gflops"])
            _note(run, workload, number, spent)
            say(_line(run))
        run.ceilings.append(ceiling.do(0)["gflops"])
    return run


def _note(run: Run, workload: Workload, number: int, spent: Mapping[str, Mapping[str, float]]) -> None:
    mine = workload.packed[number]
    theirs = [each for part in workload.padded[number] for each in part]
    for who, facts in spent.items():
        run.tokens.setdefault(who, []).append(sum(workload.lengths(mine if who == PADLESS else theirs)))
        run.cpu_s.setdefault(who, []).append(facts["cpu_s"])
        run.peak_bytes.setdefault(who, []).append(int(facts["peak_bytes"]))
    model, lengths = shape_of(run.setting.shape), workload.lengths(mine)
    is_step = run.setting.job == STEP
    run.flops.append(step_flops(model, lengths, workload.masked(mine)) if is_step else forward_flops(model, lengths))


def _line(run: Run) -> str:
    setting = run.setting
    rates = ", ".join(f"{who} {run.rates(who)[-1]:,.0f}" for who in run.cpu_s)
    place = f"{setting.shape} {setting.case} seed {setting.seed} batch {len(run.flops)}/{setting.batches}"
    return f"{place}: {rates} tokens/s"
