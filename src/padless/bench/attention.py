"""``padless bench attention``: each backend alone, forward and backward, by segment length, global and local.

The same tokens go through every backend, each in a process of its own, in turns. At one length nothing is padded; a
mixed case is a peer's batch of :mod:`padless.bench.lengths`, documents in random order. A local layer's work is linear
in its tokens, so its rate should not fall with length.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padless.bench.command import at_least_one, one_of, settings_of, whole_number
from padless.bench.lengths import CASES, draw_workload
from padless.bench.result import BenchResult, Figure, Ratio, publish
from padless.bench.shapes import PADDED
from padless.bench.sides import Say
from padless.bench.step import speaker
from padless.bench.turns import workers

DEFAULTS = {
    "lengths": "64,256,1024,4096,8192",
    "cases": "web,long,short",
    "backends": "reference,blocked,sdpa,padded",
    "windows": "global,128",
    "tokens": "8192",
    "heads": "6",
    "width": "64",
    "repeats": "10",
    "seed": "0",
    "precision": "bf16",
    "folder": "runs/bench/attention",
}
_MIXED_OF = 20  # batches that the documents of a mixed one are drawn for, at random
_BACKENDS = ("reference", "blocked", "sdpa", PADDED)


@dataclass(frozen=True)
class Place:
    """One batch to attend over."""

    name: str
    lengths: tuple[int, ...]
    window_tokens: int | None

    def as_plain(self) -> dict[str, Any]:
        """Return what a worker is told."""
        return {"lengths": self.lengths, "window_tokens": self.window_tokens}


Spent = dict[str, dict[str, list[float]]]
"""Processor seconds by place's name and backend, one a repeat."""


def bench(arguments: list[str], as_json: bool) -> None:
    """Measure and publish.

    Raises:
        ConfigError: a setting is wrong.
        TrainingError: a process failed.
    """
    told = settings_of(arguments, DEFAULTS)
    backends = [one_of("backends", each, _BACKENDS) for each in told["backends"].split(",")]
    numbers = {key: at_least_one(key, told[key]) for key in ("tokens", "heads", "width", "repeats")}
    precision, folder = one_of("precision", told["precision"], ("bf16", "fp32")), Path(told["folder"])
    places = list_places(told, numbers["tokens"])
    setting = {"places": [place.as_plain() for place in places], "precision": precision}
    setting |= {key: numbers[key] for key in ("heads", "width")}
    spent = measure(places, backends, setting, numbers["repeats"], folder / "logs", speaker(as_json))
    facts = {**numbers, "precision": precision, "core": "one, pinned"}
    publish(summarise(places, spent, facts), folder, as_json)


def list_places(told: dict[str, str], batch_tokens: int) -> list[Place]:
    """Return the batches that the settings ask for, each global and local.

    Raises:
        ConfigError: an unknown case, or a length that is no positive number or over the batch.
    """
    batches = {}
    for text in told["lengths"].split(","):
        length = at_least_one("lengths", text)
        one_of("lengths", text, [text] if length <= batch_tokens else [str(batch_tokens)])
        batches[f"length {length}"] = (length,) * (batch_tokens // length)
    for text in told["cases"].split(","):
        case = CASES[one_of("cases", text, tuple(CASES))]
        workload = draw_workload(case, _MIXED_OF, batch_tokens, 64, whole_number("seed", told["seed"]))
        batches[case.name] = tuple(workload.lengths([each for part in workload.padded[0] for each in part]))
    windows = [
        (text, None if text == "global" else at_least_one("windows", text)) for text in told["windows"].split(",")
    ]
    return [
        Place(f"{name}, {'global' if window is None else f'window {text}'}", lengths, window)
        for name, lengths in batches.items()
        for text, window in windows
    ]


def measure(
    places: list[Place], backends: list[str], setting: dict[str, Any], repeats: int, logs: Path, say: Say
) -> Spent:
    """Have every backend do every place ``repeats`` times, in turns, after one time that is not counted."""
    spent: Spent = {place.name: {who: [] for who in backends} for place in places}
    jobs = {who: {"job": "attention", "who": who, **setting} for who in backends}
    with workers(jobs, logs) as here:
        for number, place in enumerate(places):
            for repeat in range(-1, repeats):
                for who, worker in here.items():
                    seconds = worker.do(number)["cpu_s"]
                    if repeat >= 0:
                        spent[place.name][who].append(seconds)
            medians = ", ".join(f"{who} {min(each) * 1e3:.1f}" for who, each in spent[place.name].items())
            say(f"{number + 1}/{len(places)} {place.name}: least ms: {medians}")
    return spent


def summarise(places: list[Place], spent: Spent, facts: dict[str, object]) -> BenchResult:
    """Return tokens a processor second by place and backend, and sdpa over each other backend."""
    result = BenchResult("attention", facts=facts)
    for place in places:
        by_who, tokens = spent[place.name], sum(place.lengths)
        for who, seconds in by_who.items():
            rates = tuple(tokens / each for each in seconds)
            result.figures.append(Figure(place.name, who, "real tokens/s, forward and backward", rates))
        for who, seconds in by_who.items():
            if "blocked" in by_who and who != "blocked":
                values = tuple(theirs / ours for theirs, ours in zip(seconds, by_who["blocked"], strict=True))
                result.ratios.append(Ratio(f"{place.name}: blocked over {who}", values))
    return result
