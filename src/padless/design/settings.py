"""What ``padless design`` can be told, checked before anything is computed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from padless.config.load import unknown_word
from padless.data.picture_file import picture_file
from padless.design.search import Workload, workloads_of
from padless.design.shapes import STEP, TILE, Grid
from padless.errors import ConfigError
from padless.plan.devices import GPUS, Gpu, gpu_named
from padless.units import parse_tokens

PUBLISHED_BASKET = "t4,l4,a10,rtx3090,rtx4090,a100,h100"  # ModernBERT paper, appendix B
DEFAULTS = {
    "parameters": "149M",
    "context": "8192",
    "short": "512",
    "basket": PUBLISHED_BASKET,
    "tolerance": "2%",
    "vocab": "50368",
    "layers": "4-40",
    "hidden": "any",
    "expansion": "1-4",
    "tiles": "true",
    "batch_tokens": "65536",
    "front": "time",
    "top": "12",
    "out": "",
    "candidates": "8",
    "repeats": "2",
}
_FRONTS = ("time", "time,memory")
_ONLY_MEASURING = ("candidates", "repeats")
_LEAST_CONTEXT = 64


@dataclass(frozen=True)
class Settings:
    """One call of the command.

    Attributes:
        budgets: parameters, one search each.
        grid: what shapes may be.
        tolerance: how far from a budget a shape's parameters may be, as a share.
        basket: GPUs.
        workloads: what is timed.
        has_memory: the front that is printed is of time, depth and memory, not of time and depth alone.
        top: most rows of the front that are printed.
        out: the picture; None for none.
        measures: time shapes on this machine, too.
        candidates: how many of a budget's shapes are timed.
        repeats: of each timing, of which the least counts.
    """

    budgets: tuple[int, ...]
    grid: Grid
    tolerance: float
    basket: tuple[Gpu, ...]
    workloads: tuple[Workload, ...]
    has_memory: bool
    top: int
    out: Path | None
    measures: bool
    candidates: int
    repeats: int


def parse_settings(arguments: Sequence[str]) -> Settings:
    """Return what ``key=value`` arguments and the flag ``--measure=True`` ask for.

    Raises:
        ConfigError: a setting is unknown, given twice, has no effect, or its value cannot be used.
    """
    measures = "--measure=True" in arguments
    told = _told([each for each in arguments if each != "--measure=True"])
    idle = [key for key in _ONLY_MEASURING if key in told and not measures]
    if idle:
        raise ConfigError(
            f"{idle[0]}={told[idle[0]]} has no effect without --measure", "add --measure, or leave it out"
        )
    values = DEFAULTS | told
    context = _whole("context", values["context"], _LEAST_CONTEXT)
    short = _whole("short", values["short"], 1)
    if "short" in told and short >= context:
        raise ConfigError(f"short={short} is not shorter than context={context}", "give a shorter one, or leave it out")
    return Settings(
        budgets=_budgets(values["parameters"]),
        grid=_grid(values),
        tolerance=_share(values["tolerance"]),
        basket=_basket(values["basket"]),
        workloads=tuple(workloads_of(context, short, _whole("batch_tokens", values["batch_tokens"], context))),
        has_memory=_has_memory(values["front"]),
        top=_whole("top", values["top"], 1),
        out=picture_file(values["out"], "write e.g. out=shapes.png") if values["out"] else None,
        measures=measures,
        candidates=_whole("candidates", values["candidates"], 3),
        repeats=_whole("repeats", values["repeats"], 1),
    )


def _told(arguments: Sequence[str]) -> dict[str, str]:
    told: dict[str, str] = {}
    for word in arguments:
        key, separator, value = word.partition("=")
        if key not in DEFAULTS:
            raise unknown_word(word, list(DEFAULTS), f"settings are {', '.join(DEFAULTS)}")
        if not separator or not value:
            raise ConfigError(f"{word} has no value", f"write e.g. {key}={DEFAULTS[key] or 'shapes.png'}")
        if key in told:
            raise ConfigError(f"{key} is given twice", "give it once")
        told[key] = value
    return told


def _whole(key: str, text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ConfigError(f"{key}={text} is not a whole number", f"write e.g. {key}={DEFAULTS[key]}") from None
    if number < least:
        raise ConfigError(f"{key}={text} is less than {least}", f"write {key}={least} or more")
    return number


def _budgets(text: str) -> tuple[int, ...]:
    try:
        budgets = tuple(parse_tokens(each) for each in text.split(","))
    except ConfigError:
        budgets = (0,)
    if min(budgets) < 1 or len(set(budgets)) < len(budgets):
        raise ConfigError(
            f"parameters={text} is not one or more different numbers of parameters",
            "write e.g. parameters=149M or parameters=149M,395M",
        )
    return budgets


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 < share <= 0.5:
        raise ConfigError(f"tolerance={text} is not a share above 0 and up to 50%", "write e.g. tolerance=2%")
    return share


def _basket(text: str) -> tuple[Gpu, ...]:
    gpus = tuple(gpu_named(name) for name in text.split(","))
    if len(set(gpus)) < len(gpus):
        raise ConfigError(f"basket={text} names a GPU twice", f"name each once, of {', '.join(GPUS)}")
    return gpus


def _grid(values: dict[str, str]) -> Grid:
    vocab = _whole("vocab", values["vocab"], STEP)
    if vocab % STEP:
        nearest = max(STEP, round(vocab / STEP) * STEP)
        raise ConfigError(f"vocab={vocab} is not a multiple of {STEP}", f"the nearest is vocab={nearest}")
    if values["tiles"] not in ("true", "false"):
        raise ConfigError(f"tiles={values['tiles']} is neither true nor false", "write tiles=true or tiles=false")
    has_tile_rule = values["tiles"] == "true"
    low, high = _range("layers", values["layers"], int)
    least, most = _range("expansion", values["expansion"], float)
    return Grid(int(low), int(high), least, most, has_tile_rule, _hidden(values["hidden"], has_tile_rule), vocab)


def _range(key: str, text: str, kind: Callable[[str], float]) -> tuple[float, float]:
    low, _, high = text.partition("-")
    try:
        pair = kind(low), kind(high or low)
    except ValueError:
        pair = (0, 0)
    if not 0 < pair[0] <= pair[1] < math.inf:
        raise ConfigError(f"{key}={text} is not a range of positive numbers", f"write e.g. {key}={DEFAULTS[key]}")
    return pair


def _hidden(text: str, has_tile_rule: bool) -> int | None:
    if text == "any":
        return None
    hidden = _whole("hidden", text, STEP)
    step = TILE[1] if has_tile_rule else STEP
    if hidden % step:
        rule = f"{step}, which whole tiles of 128 x 256 need" if has_tile_rule else f"{step}, the width of a head"
        near = max(step, round(hidden / step) * step)
        also = "; tiles=false drops that rule" if has_tile_rule and hidden % STEP == 0 else ""
        raise ConfigError(f"hidden={hidden} is not a multiple of {rule}", f"the nearest is hidden={near}{also}")
    return hidden


def _has_memory(text: str) -> bool:
    if text not in _FRONTS:
        raise ConfigError(f"front={text} is none of {' and '.join(_FRONTS)}", "write e.g. front=time,memory")
    return text == "time,memory"
