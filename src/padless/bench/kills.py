"""Which kills a chaos run gets: every named event, several targets, spread over the whole run; a function of the seed.

A run is killed at ascending clocks, so every start gets further than the kill before it, or as far.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from padless.bench.moments import LEADER_EVENTS, Moments
from padless.errors import ConfigError

RAMP, STARTUP, RANDOM = "ramp", "startup", "random"
ORDER = (  # the first kills of a short plan are the likeliest to do harm
    "save_before_sidecar",
    "handover",
    RAMP,
    RANDOM,
    "export",
    "pass_border",
    "save_inside",
    "evaluation",
    STARTUP,
    "retention",
    "save_after",
    "step",
)
FROM_OUTSIDE = (STARTUP, RANDOM)
_ONE_PROCESS = (("python", "rank"), ("torchrun", "launcher"), ("python", "rank"), ("torchrun", "ranks"))
_SEVERAL = (
    ("torchrun", "rank"),
    ("torchrun", "launcher"),
    ("composer", "rank"),
    ("torchrun", "ranks"),
    ("composer", "launcher"),
    ("torchrun", "rank"),
    ("composer", "ranks"),
)
_MAX_DELAY_S = 0.1
_MAX_STARTUP_S = 8.0
_LAST_RANDOM_SHARE = 0.85
_OVERSHOOT_STEPS = 8  # a kill from outside comes within so many steps of its clock


@dataclass(frozen=True)
class Kill:
    """One planned kill.

    Attributes:
        number: from 1, in the order they are done.
        processes: ranks of the run it belongs to.
        launcher: python (none), torchrun or composer.
        event: a named event; ``ramp`` is a step while the batch grows; ``startup`` and ``random`` come from outside.
        clock_tokens: where in the run; for ``random`` the clock it waits for.
        target: rank, ranks or launcher.
        rank: the rank that is killed, or in which the event counts.
        delay_s: of kills from outside, after the ranks are there (``startup``) or the clock is reached.
    """

    number: int
    processes: int
    launcher: str
    event: str
    clock_tokens: int
    target: str
    rank: int
    delay_s: float

    @property
    def named_event(self) -> str:
        """The event as :mod:`padless.events` knows it."""
        return "step" if self.event == RAMP else self.event


def plan_kills(count: int, seed: int, processes: Sequence[int], moments: Moments) -> tuple[Kill, ...]:
    """Return ``count`` kills, those of each number of processes together and in the order of their clocks.

    Raises:
        ConfigError: a number is below 1, or more kills than the run has moments for.
    """
    if count < 1:
        raise ConfigError(f"kills={count} is less than 1", "use e.g. kills=30")
    if not processes or min(processes) < 1 or len(set(processes)) < len(processes):
        listed = ",".join(map(str, processes))
        raise ConfigError(f"processes={listed} are not different numbers of 1 or more", "use e.g. processes=1,2")
    kills: list[Kill] = []
    for size in processes:
        events = [ORDER[i % len(ORDER)] for i in range(count) if _processes_of(i, processes) == size]
        kills += _series(events, size, random.Random(f"{seed}/{size}"), moments, len(kills))
    return tuple(kills)


def _processes_of(index: int, processes: Sequence[int]) -> int:
    return processes[(index + index // len(ORDER)) % len(processes)]


def _series(events: list[str], size: int, draw: random.Random, moments: Moments, done: int) -> list[Kill]:
    events = _at_most(events, "handover", len(moments.clocks["handover"]))
    events = _at_most(events, "pass_border", len(_candidates("pass_border", moments, {})))
    placed: dict[int, str] = {}
    for event in sorted(set(events), key=_placed_first):
        for clock in _spread(event, events.count(event), draw, moments, placed):
            placed[clock] = event
    ordered = [*sorted(placed.items()), *[(moments.end_tokens, "export")] * events.count("export")]
    ways = _ONE_PROCESS if size == 1 else _SEVERAL
    offset = draw.randrange(len(ways))
    kills: list[Kill] = []
    for index, (clock, event) in enumerate(ordered):
        launcher, target = ways[(index + offset) % len(ways)]
        rank = 0 if event in LEADER_EVENTS else draw.randrange(size)
        delay_s = draw.uniform(0, _MAX_STARTUP_S if event == STARTUP else _MAX_DELAY_S)
        kills.append(Kill(done + index + 1, size, launcher, event, clock, target, rank, round(delay_s, 3)))
    return kills


def _placed_first(event: str) -> tuple[bool, bool, int]:
    """Order events so that what a run has few of gets its clocks first."""
    return event in FROM_OUTSIDE, event not in ("handover", "pass_border", RAMP), ORDER.index(event)


def _at_most(events: list[str], event: str, most: int) -> list[str]:
    """Replace what a run does not have often enough by kills at random moments."""
    kept = [index for index, each in enumerate(events) if each == event][:most]
    return [RANDOM if each == event and index not in kept else each for index, each in enumerate(events)]


def _candidates(event: str, moments: Moments, placed: Mapping[int, str]) -> list[int]:
    """Return the clocks an event can still be planned at: one kill a clock, so that each start passes the kill before.

    Ends of phases are left to the hand-over, of which there are few; a kill from outside, which comes a few steps after
    its clock, keeps away from what it must not jump over.
    """
    steps, ends = moments.clocks["step"], moments.clocks["handover"]
    if event == "handover":
        return [clock for clock in ends if clock not in placed]
    if event == RAMP:
        free = [clock for clock in steps if clock < moments.ramp_end_tokens]
    elif event in FROM_OUTSIDE:
        few = [*ends, *(clock for clock, each in placed.items() if each == "pass_border")]
        close = {clock for border in few for clock in [step for step in steps if step <= border][-_OVERSHOOT_STEPS:]}
        last = _LAST_RANDOM_SHARE * moments.end_tokens
        free = [clock for clock in steps if moments.ramp_end_tokens < clock < last and clock not in close]
    else:
        free = list(moments.clocks[event])
    return [clock for clock in free if clock not in placed and clock not in (*ends, steps[0], moments.end_tokens)]


def _spread(event: str, count: int, draw: random.Random, moments: Moments, placed: Mapping[int, str]) -> list[int]:
    """Return clocks of ``count`` occurrences, one drawn from each of ``count`` equal parts of those that are free.

    Raises:
        ConfigError: there are not so many.
    """
    if event == "export":
        return []
    free = _candidates(event, moments, placed)
    if len(free) < count:
        raise ConfigError(
            f"a run of {moments.end_tokens:_} tokens has room for {len(free)} kills at {event}, not for {count}",
            "use fewer kills",
        )
    return [free[draw.randrange(part * len(free) // count, (part + 1) * len(free) // count)] for part in range(count)]
