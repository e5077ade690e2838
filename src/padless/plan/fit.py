"""``padless plan --fit "8xh100, 3 days"``: which model, and how many tokens, that much hardware and time can train.

Every preset of the published vocabulary gets the same schedule, ModernBERT-base's three phases with its shares of the
tokens, scaled to what the time allows. The suggestion is the largest model that still sees as many tokens a parameter
as ModernBERT-large did; the published models were trained on 5,100 (large) and 13,500 (base) tokens a parameter, far
beyond the 20 at which a given amount of compute is spent best.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from padless.config.check import check
from padless.config.compose import YAML_FOLDER, compose
from padless.config.load import nearest_key
from padless.config.schema import Config, PhaseConfig
from padless.errors import ConfigError
from padless.model.count import count_parameters
from padless.plan.calibration import preset
from padless.plan.devices import GPUS
from padless.plan.estimate import RunEstimate, estimate, other_gpu_hours
from padless.plan.hardware import Machine, parse_machine
from padless.plan.memory import largest_microbatch
from padless.plan.report import number_text
from padless.plan.request import common_quantum, divisors_that_fit
from padless.plan.streams import data_of_phase
from padless.plan.trust import has_lengths_of_fit, is_extrapolated, model_errors, trust_line
from padless.units import approximate_tokens, format_tokens

RECIPE = "modernbert_base"
ENOUGH = "large"  # the preset whose published tokens a parameter are the bar
_HOURS = {"min": 1 / 60, "hour": 1.0, "day": 24.0, "week": 168.0, "month": 730.5, "year": 8766.0}
_SHORT = {"minute": "min", "h": "hour", "hr": "hour", "d": "day", "w": "week", "mo": "month", "y": "year", "yr": "year"}
_BUDGET = re.compile(r"\s*([^,]+?)\s*,\s*([0-9][0-9_.]*)\s*([A-Za-z]+)\s*")
_EXAMPLE = "write e.g. --fit '8xh100, 3 days'"


@dataclass(frozen=True)
class Budget:
    """Hardware for a time."""

    machine: Machine
    hours: float

    @property
    def gpu_hours(self) -> float:
        """Hours of all devices."""
        return self.hours * self.machine.count


@dataclass(frozen=True)
class Size:
    """What a budget gives one preset; tokens are of all phases, None where it ``lacks`` memory or time for any."""

    model: str
    parameters: int
    tokens: int | None
    microbatch_blocks: int | None
    lacks: str | None = None  # memory: not one block fits; time: a phase would be shorter than its batches

    @property
    def tokens_a_parameter(self) -> float | None:
        """Tokens over parameters."""
        return None if self.tokens is None else self.tokens / self.parameters


@dataclass(frozen=True)
class Answer:
    """What a budget gives every preset.

    Args:
        budget: hardware and time.
        sizes: of all presets, smallest first.
        published_tokens: of the recipe, and of every published size.
        enough: tokens a parameter that a suggestion has at least.
        suggested: name of a preset, or None where none has enough.
        command: overrides of train.py for the suggestion, or for the smallest that can be trained.
        has_lengths_of_fit: segments are assumed as where the speed model was fitted.
    """

    budget: Budget
    sizes: tuple[Size, ...]
    published_tokens: int
    enough: float
    suggested: str | None
    command: tuple[str, ...]
    has_lengths_of_fit: bool

    def as_plain(self, price: float) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "ok": True,
            "hardware": self.budget.machine.name,
            "hours": self.budget.hours,
            "gpu_hours": self.budget.gpu_hours,
            "cost": {"usd": self.budget.gpu_hours * price, "usd_per_gpu_hour": price},
            "sizes": [
                {
                    "model": size.model,
                    "parameters": size.parameters,
                    "tokens": size.tokens,
                    "tokens_per_parameter": size.tokens_a_parameter,
                    "of_published_tokens": None if size.tokens is None else size.tokens / self.published_tokens,
                    "microbatch_blocks": size.microbatch_blocks,
                    "lacks": size.lacks,
                    "model_error": model_errors(size.parameters, self.has_lengths_of_fit),
                }
                for size in self.sizes
            ],
            "published_tokens": self.published_tokens,
            "enough_tokens_per_parameter": self.enough,
            "suggested": self.suggested,
            "command": list(self.command),
            "extrapolated": is_extrapolated(self.budget.machine),
        }


def parse_budget(text: str) -> Budget:
    """Return the budget that ``8xh100, 3 days`` writes.

    Raises:
        ConfigError: it is not hardware, a comma and a time; the unit or the GPU is unknown; the time is 0.
    """
    found = _BUDGET.fullmatch(text)
    if found is None:
        raise ConfigError(f"--fit {text!r} is not hardware, a comma and a time", _EXAMPLE)
    hardware, number, word = found.groups()
    unit = word.lower()
    unit = _SHORT.get(unit, _SHORT.get(unit.removesuffix("s"), unit.removesuffix("s")))
    if unit == "m":
        raise ConfigError(f"{word!r} may be minutes or months", "write min or month")
    if unit not in _HOURS:
        nearest = nearest_key(unit, list(_HOURS))
        hint = f"did you mean {nearest}s? " if nearest else ""
        raise ConfigError(f"{word!r} is not a unit of time", f"{hint}use one of: {', '.join(_HOURS)}")
    try:
        hours = float(number.replace("_", "")) * _HOURS[unit]
    except ValueError:
        raise ConfigError(f"{number!r} is not a number", _EXAMPLE) from None
    if not math.isfinite(hours):
        raise ConfigError(f"--fit {text!r} is too long a time", _EXAMPLE)
    if hours <= 0:
        raise ConfigError(f"--fit {text!r} leaves no time", _EXAMPLE)
    machine = parse_machine(hardware)
    if machine.is_cpu:
        raise ConfigError(
            "--fit counts with GPUs of the table; a CPU's speed has to be measured",
            "plan a recipe with --measure on that machine",
        )
    return Budget(machine, hours)


def answer(budget: Budget, lengths: str | None = None) -> Answer:
    """Return what a budget gives every preset.

    Raises:
        ConfigError: its ranks do not divide the batch, or no preset can be trained with it.
    """
    recipe = compose([f"recipe={RECIPE}"])
    _require_cut(recipe, budget.machine)
    published = sum(phase.tokens for phase in recipe.phases.values())
    found = sorted(
        (_size(name, recipe, budget, lengths) for name in model_names(recipe)),
        key=lambda size: size.parameters,
    )
    enough = published / next(size.parameters for size in found if size.model == ENOUGH)
    able = [size for size in found if size.tokens]
    if not able:
        raise _nothing_fits(budget, found)
    good = [size for size in able if (size.tokens_a_parameter or 0) >= enough]
    chosen = good[-1] if good else able[0]
    command = suggest(chosen, budget)
    data = [(phase.max_seq_len, data_of_phase(recipe, phase, 1, lengths)) for phase in recipe.phases.values()]
    suggested = good[-1].model if good else None
    return Answer(budget, tuple(found), published, enough, suggested, command, has_lengths_of_fit(data))


def _nothing_fits(budget: Budget, sizes: Sequence[Size]) -> ConfigError:
    lack_time = [size for size in sizes if size.lacks == "time"]
    if lack_time:
        return ConfigError(
            f"{number_text(budget.gpu_hours)} GPU-hours on {budget.machine.name} train no model, not even "
            f"{lack_time[0].model}: a phase would be shorter than its batches",
            "take more time, or more GPUs; recipe=modernbert_base_1b has smaller batches",
        )
    larger = [gpu.name for gpu in GPUS.values() if gpu.memory_mib > budget.machine.device.memory_mib]
    return ConfigError(
        f"the memory of one {budget.machine.device.name} holds no model, not even {sizes[0].model}",
        f"take a GPU with more memory: {', '.join(larger)}",
    )


def model_names(recipe: Config) -> list[str]:
    """Return the presets with the recipe's vocabulary, one name a shape."""
    by_shape: dict[Any, str] = {}
    names = sorted(path.stem for path in (YAML_FOLDER / "model").glob("*.yaml"))
    for name in sorted(names, key=lambda each: each[:1].isdigit()):  # base rather than 150m
        model = preset(name)
        if model.vocab_size == recipe.model.vocab_size:
            by_shape.setdefault(model, name)
    return list(by_shape.values())


def scale_recipe(config: Config, tokens: int) -> Config:
    """Return the recipe with so many tokens in all: ramps and intervals shrink with its phases and never grow."""
    published = sum(phase.tokens for phase in config.phases.values())
    phases = {name: _scale(phase, tokens / published) for name, phase in config.phases.items()}
    return replace(config, phases=phases)


def _scale(phase: PhaseConfig, factor: float) -> PhaseConfig:
    shrunk = min(1.0, factor)
    every = _round(phase.save_every_tokens * shrunk)
    warmup, keep = phase.batch.warmup, phase.keep_every_tokens
    if warmup is not None:
        warmup = replace(warmup, tokens=_round(warmup.tokens * shrunk))
    return replace(
        phase,
        tokens=_round(phase.tokens * factor),
        lr=replace(phase.lr, warmup_tokens=_round(phase.lr.warmup_tokens * shrunk)),
        batch=replace(phase.batch, warmup=warmup),
        save_every_tokens=every,
        keep_every_tokens=None if keep is None else every * (keep // phase.save_every_tokens),
        eval_every_tokens=every,
    )


def suggest(size: Size, budget: Budget) -> tuple[str, ...]:
    """Return the overrides of train.py that scale the recipe to a size's tokens, its ramps and intervals with it."""
    config = scale_recipe(compose([f"recipe={RECIPE}"]), size.tokens or 0)
    named = f"{size.model}_{format_tokens(size.tokens or 0)}"
    own = [f"recipe={RECIPE}", f"model={size.model}", f"run.name={named}"]
    for name in config.phase_order:
        phase, key = config.phases[name], f"phases.{name}"
        own.append(f"{key}.tokens={format_tokens(phase.tokens)}")
        if phase.lr.warmup_tokens:
            own.append(f"{key}.lr.warmup_tokens={format_tokens(phase.lr.warmup_tokens)}")
        if phase.batch.warmup is not None:
            own.append(f"{key}.batch.warmup.tokens={format_tokens(phase.batch.warmup.tokens)}")
        own.append(f"{key}.save_every_tokens={format_tokens(phase.save_every_tokens)}")
        if phase.keep_every_tokens is not None:
            own.append(f"{key}.keep_every_tokens={format_tokens(phase.keep_every_tokens)}")
        own.append(f"{key}.eval_every_tokens={format_tokens(phase.eval_every_tokens)}")
    return (*own, *_hardware_words(budget.machine, size.microbatch_blocks or 1))


def print_answer(found: Answer, price: float, console: Console) -> None:
    """Print a line a size, and the suggestion."""
    budget = found.budget
    cost = budget.gpu_hours * price
    console.print(
        f"{budget.machine.name} for {number_text(budget.hours)} hours: {number_text(budget.gpu_hours)} GPU-hours, "
        f"{cost:,.0f} USD at {price:g} a GPU-hour (price= sets another)",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("model", "parameters", "tokens", "of published", "a parameter", "to large's"):
        table.add_column(heading, overflow="fold", justify="left" if heading in ("model", "to large's") else "right")
    for size in found.sizes:
        table.add_row(*_cells(size, found))
    console.print(table)
    for line in _closing(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _cells(size: Size, found: Answer) -> tuple[str, ...]:
    name, parameters = size.model, approximate_tokens(size.parameters)
    if size.tokens is None or size.tokens_a_parameter is None:
        return name, parameters, "none", "", "", f"too little {size.lacks}"
    ratio = size.tokens_a_parameter / found.enough
    word = f"{number_text(ratio)} times{', suggested' if name == found.suggested else ''}"
    share = f"{size.tokens / found.published_tokens:.1%}"
    return name, parameters, approximate_tokens(size.tokens), share, number_text(size.tokens_a_parameter), word


def _closing(found: Answer) -> list[str]:
    lines = [
        f"published: {approximate_tokens(found.published_tokens)} tokens for every size, so "
        f"{number_text(found.enough)} a parameter for ModernBERT-large; hours include evaluation and the rest",
        trust_line(found.budget.machine, found.has_lengths_of_fit),
    ]
    if found.suggested is None:
        lines.append("no size has as many tokens a parameter as ModernBERT-large; the smallest comes nearest:")
    else:
        lines.append(f"suggested: {found.suggested}, the largest with at least as many:")
    return [
        *lines,
        f"  train.py {' '.join(found.command)}",
        f"batches and learning rates are {RECIPE}'s at any size; {RECIPE}_10b and {RECIPE}_1b show how to shrink them "
        "for few tokens",
    ]


def _size(name: str, recipe: Config, budget: Budget, lengths: str | None) -> Size:
    config = replace(recipe, model=preset(name))
    parameters = count_parameters(config.model).total
    try:
        fitting = divisors_that_fit(config, budget.machine, largest_microbatch(config, budget.machine))
    except ConfigError:
        return Size(name, parameters, None, None, "memory")
    run = estimate(config, budget.machine, fitting[-1], 0.0, lengths)
    tokens = _tokens_in(run, budget.gpu_hours)
    hardware = replace(config.hardware, microbatch_blocks=fitting[-1])
    try:
        check(replace(scale_recipe(config, tokens), hardware=hardware), budget.machine.count)
    except ConfigError:  # a phase or its ramp is shorter than the batches it has to hold
        return Size(name, parameters, None, fitting[-1], "time")
    return Size(name, parameters, tokens, fitting[-1])


def _tokens_in(run: RunEstimate, gpu_hours: float) -> int:
    """Return the tokens whose GPU-hours, with evaluation and the rest, are the budget; by halving.

    Hours grow with the tokens of the phases, which keep their shares; other hours of a phase are capped as in the plan.
    """
    published = sum(phase.plan.phase.tokens for phase in run.phases)
    low, high = 0.0, gpu_hours / run.gpu_hours_training  # at most: were there no other hours
    for _ in range(60):
        scale = (low + high) / 2
        hours = sum(
            scale * phase.gpu_hours_training
            + other_gpu_hours(scale * phase.gpu_hours_training, phase.most_gpu_hours_other)
            for phase in run.phases
        )
        low, high = (scale, high) if hours <= gpu_hours else (low, scale)
    return _round(low * published)


def _require_cut(recipe: Config, machine: Machine) -> None:
    """Refuse a number of ranks that no batch of the recipe can be cut for."""
    common, count = common_quantum(recipe), machine.count
    if common % count == 0:
        return
    able = [number for number in range(1, common + 1) if common % number == 0]
    near = [*[number for number in able if number < count][-1:], *[number for number in able if number > count][:1]]
    named = " or ".join(f"{number}x{machine.device.name}" for number in near)
    raise ConfigError(
        f"{machine.name}: {count} does not divide {common}, the blocks that batches of {RECIPE} are multiples of",
        f"{named} can: ranks have to divide {common}",
    )


def _round(tokens: float) -> int:
    """Return a number of tokens to three digits, rounded down."""
    if tokens < 1000:
        return int(tokens)
    size = 10 ** (int(math.log10(tokens)) - 2)
    return int(tokens) // size * size


def _hardware_words(machine: Machine, microbatch_blocks: int) -> tuple[str, ...]:
    """Return the overrides that run on a machine: its own file where there is one, else that of one GPU."""
    cut = f"hardware.microbatch_blocks={microbatch_blocks}"
    if (YAML_FOLDER / "hardware" / f"{machine.name}.yaml").exists():
        return f"hardware={machine.name}", cut
    return "hardware=1xgpu", f"hardware.world_size={machine.count}", cut
