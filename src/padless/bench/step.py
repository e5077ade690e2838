"""``padless bench step``: full train steps against transformers, padded, side by side (:mod:`padless.bench.sides`)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from padless.attention.select import BACKENDS
from padless.bench.command import at_least_one, one_of, settings_of, whole_number
from padless.bench.lengths import CASES
from padless.bench.result import BenchResult, Figure, Ratio, number_text, publish
from padless.bench.shapes import DENSE, PADLESS, SPARSE, shape_of
from padless.bench.sides import GROUP_BATCHES, STEP, Run, Say, Setting, measure

DEFAULTS = {
    "cases": "web,long,full,short",
    "shapes": "6x384,nano",
    "against": "sparse,dense",
    "batches": "20",
    "warmup": "3",
    "seeds": "0,1",
    "tokens": "8192",
    "rows": "32",
    "precision": "bf16",
    "backend": "blocked",
    "compile": "false",
    "allocator": "default",
    "folder": "runs/bench/step",
}
_FASTER = {
    ("6x384", "web", SPARSE): 4.5,
    ("6x384", "web", DENSE): 8.0,
    ("nano", "web", SPARSE): 5.0,
    ("6x384", "long", SPARSE): 3.0,
}
_LONG_TO_WEB, _SHARE, _PEAK_GB = 0.9, 0.5, 1.3
_ASKED_SHAPE, _ASKED_CASE = "6x384", "web"  # share and memory are asked for here


@dataclass(frozen=True)
class Plan:
    """All settings that one call measures, and where to."""

    settings: tuple[Setting, ...]
    folder: Path


def bench(arguments: list[str], as_json: bool) -> None:
    """Measure and publish.

    Raises:
        ConfigError: a setting is wrong.
        TrainingError: a process failed.
    """
    plan = parse(arguments, DEFAULTS, STEP, (SPARSE, DENSE))
    publish(summarise(run_all(plan, speaker(as_json))), plan.folder, as_json)


def speaker(as_json: bool) -> Say:
    """Return a function that prints one line, on standard error where standard output is for JSON."""
    console = Console(stderr=as_json)
    return lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)


def parse(arguments: list[str], defaults: dict[str, str], job: str, peers: Sequence[str]) -> Plan:
    """Return what ``key=value`` arguments ask for.

    Args:
        arguments: from the command line.
        defaults: settings that there are, with their values.
        job: what is measured, ``step`` or ``encode``.
        peers: names that ``against`` may have.

    Raises:
        ConfigError: one is unknown or out of range.
    """
    told = settings_of(arguments, defaults)
    cases = [one_of("cases", each, tuple(CASES)) for each in told["cases"].split(",")]
    against = tuple(one_of("against", each, peers) for each in told["against"].split(","))
    shapes, seeds = told["shapes"].split(","), [whole_number("seeds", each) for each in told["seeds"].split(",")]
    for each in shapes:
        shape_of(each)
    settings = tuple(
        Setting(
            job,
            shape,
            case,
            seed,
            against,
            batches=at_least_one("batches", told["batches"]),
            warmup=at_least_one("warmup", told["warmup"]),
            tokens=at_least_one("tokens", told["tokens"]),
            rows=at_least_one("rows", told["rows"]),
            precision=one_of("precision", told["precision"], ("bf16", "fp32")),
            backend=one_of("backend", told["backend"], BACKENDS),
            is_compiled=one_of("compile", told["compile"], ("true", "false")) == "true",
            allocator=told["allocator"],
        )
        for shape in shapes
        for case in cases
        for seed in seeds
    )
    return Plan(settings, Path(told["folder"]))


def run_all(plan: Plan, say: Say) -> list[Run]:
    """Measure every setting, one after the other."""
    runs = []
    for number, setting in enumerate(plan.settings):
        say(f"{number + 1}/{len(plan.settings)}: {setting.shape}, {CASES[setting.case].says}, seed {setting.seed}")
        logs = plan.folder / "logs" / f"{setting.shape}-{setting.case}-{setting.seed}"
        runs.append(measure(setting, logs, say))
    return runs


def together(runs: Iterable[Run]) -> dict[tuple[str, str], list[Run]]:
    """Return runs by shape and case: one a seed."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.setting.shape, run.setting.case), []).append(run)
    return found


def summarise(runs: list[Run]) -> BenchResult:
    """Return figures, ratios and what a reader has to know."""
    result = BenchResult("step", facts=facts_of(runs))
    places = together(runs)
    for (shape, case), seeds in places.items():
        result.figures += rate_figures(f"{shape} {case}", seeds)
        result.figures += _memory_figures(f"{shape} {case}", seeds)
        result.ratios += faster_ratios(shape, case, seeds, _FASTER)
        result.ratios += _bounds(shape, case, seeds)
    for shape in dict.fromkeys(shape for shape, _ in places):
        result.ratios += _long_to_web(shape, places)
    result.notes = notes_of(places)
    return result


def facts_of(runs: list[Run]) -> dict[str, object]:
    """Return the settings that all runs share."""
    setting = runs[0].setting
    return {
        "batches": f"{setting.batches} a seed",
        "seeds": ",".join(dict.fromkeys(str(run.setting.seed) for run in runs)),
        "tokens a batch": setting.tokens,
        "precision": setting.precision,
        "attention": setting.backend,
        "compile": setting.is_compiled,
        "allocator": setting.allocator,
        "core": "one, pinned",
    }


def rate_figures(place: str, seeds: list[Run]) -> list[Figure]:
    """Return real tokens a processor second of everyone, a value a batch."""
    return [
        Figure(place, who, "real tokens/s", tuple(rate for run in seeds for rate in run.rates(who)))
        for who in seeds[0].cpu_s
    ]


def faster_ratios(shape: str, case: str, seeds: list[Run], targets: dict[tuple[str, str, str], float]) -> list[Ratio]:
    """Return our rate over each peer's: over whole runs, which targets are held against, by groups of batches, and what
    it could be at most on this core."""
    found = []
    for who in seeds[0].setting.against:
        name = f"{shape} {case}: padless over {who}"
        whole = tuple(run.ratio(who) for run in seeds)
        groups = tuple(run.ratio(who, part) for run in seeds for part in run.groups())
        limit = tuple(run.rate_at_ceiling() / run.rate(who) for run in seeds)
        found.append(Ratio(f"{name}, whole run of a seed", whole, targets.get((shape, case, who))))
        found.append(Ratio(f"{name}, if the whole ceiling were reached", limit))
        found.append(Ratio(f"{name}, by {GROUP_BATCHES} batches", groups))
    return found


def _memory_figures(place: str, seeds: list[Run]) -> list[Figure]:
    return [
        Figure(place, who, "GB, peak resident memory", tuple(max(run.peak_bytes[who]) / 1e9 for run in seeds))
        for who in seeds[0].peak_bytes
    ]


def _bounds(shape: str, case: str, seeds: list[Run]) -> list[Ratio]:
    """Return share of the ceiling and peak memory, with targets where the project has them."""
    is_asked = shape == _ASKED_SHAPE
    shares = tuple(share for run in seeds for share in run.shares())
    peaks = tuple(max(run.peak_bytes[PADLESS]) / 1e9 for run in seeds)
    return [
        Ratio(
            f"{shape} {case}: share of the core's matrix ceiling",
            shares,
            _SHARE if is_asked and case == _ASKED_CASE else None,
        ),
        Ratio(f"{shape} {case}: peak memory of padless, GB", peaks, _PEAK_GB if is_asked else None, True),
    ]


def _long_to_web(shape: str, places: dict[tuple[str, str], list[Run]]) -> list[Ratio]:
    long, web = places.get((shape, "long")), places.get((shape, "web"))
    if long is None or web is None:
        return []
    values = tuple(one.rate(PADLESS) / other.rate(PADLESS) for one, other in zip(long, web, strict=True))
    equal = tuple(other.flops_per_token() / one.flops_per_token() for one, other in zip(long, web, strict=True))
    target = _LONG_TO_WEB if shape == _ASKED_SHAPE else None
    name = f"{shape}: tokens/s at long over web"
    return [Ratio(name, values, target), Ratio(f"{name}, if both reached one share of the ceiling", equal)]


def notes_of(places: dict[tuple[str, str], list[Run]]) -> list[str]:
    """Return what a reader has to know about the runs: ceilings, and how much of a peer's work is padding."""
    notes = []
    for (shape, case), seeds in places.items():
        ceilings = [each for run in seeds for each in run.ceilings]
        span = f"{number_text(min(ceilings))} to {number_text(max(ceilings))} GFLOP/s"
        padding = ", ".join(f"{run.padding:.2f}" for run in seeds)
        notes.append(f"{shape} {case}: a padded peer computes {padding} tokens for a real one; matrix ceiling {span}.")
    return notes
