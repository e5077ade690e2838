"""``padless plan --fit "8xh100, 3 days"``: which model, and how many tokens, that much hardware and time can train.

Every preset of the published vocabulary gets the same schedule, ModernBERT-base's three phases with its shares of the
tokens, scaled to what the time allows. The suggestion is the largest model that still sees as many tokens a parameter
as ModernBERT-large did; the published models were trained on 5,100 (large) and 13,500 (base) tokens a parameter, far
beyond the 20 at which a given amount of compute is spent best.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from padless.config.compose import YAML_FOLDER, compose
from padless.config.load import nearest_key
from padless.config.schema import Config
from padless.errors import ConfigError
from padless.model.count import count_parameters
from padless.plan.calibration import preset
from padless.plan.devices import GPUS
from padless.plan.efficiency import FREE_CONSTANTS, LARGEST_ERROR
from padless.plan.estimate import RunEstimate, estimate, other_gpu_hours
from padless.plan.hardware import Machine, parse_machine
from padless.plan.memory import largest_microbatch
from padless.plan.report import SMALL_MODELS, number_text
from padless.plan.request import divisors_that_fit
from padless.units import approximate_tokens, format_tokens

RECIPE = "modernbert_base"
ENOUGH = "large"  # the preset whose published tokens a parameter are the bar
_HOURS = {"min": 1 / 60, "hour": 1.0, "day": 24.0, "week": 168.0, "month": 730.0}
_SHORT = {"m": "min", "minute": "min", "h": "hour", "hr": "hour", "d": "day", "w": "week"}
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
    """What a budget gives one preset; tokens are of all phases, None where not even one block fits the memory."""

    model: str
    parameters: int
    tokens: int | None
    microbatch_blocks: int | None

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
    """

    budget: Budget
    sizes: tuple[Size, ...]
    published_tokens: int
    enough: float
    suggested: str | None
    command: tuple[str, ...]

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
                }
                for size in self.sizes
            ],
            "published_tokens": self.published_tokens,
            "enough_tokens_per_parameter": self.enough,
            "suggested": self.suggested,
            "command": list(self.command),
            "model_error": LARGEST_ERROR,
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
    if unit not in _HOURS:
        nearest = nearest_key(unit, list(_HOURS))
        hint = f"did you mean {nearest}s? " if nearest else ""
        raise ConfigError(f"{word!r} is not a unit of time", f"{hint}use one of: {', '.join(_HOURS)}")
    try:
        hours = float(number.replace("_", "")) * _HOURS[unit]
    except ValueError:
        raise ConfigError(f"{number!r} is not a number", _EXAMPLE) from None
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
        ConfigError: no preset can be trained with it.
    """
    recipe = compose([f"recipe={RECIPE}"])
    published = sum(phase.tokens for phase in recipe.phases.values())
    found = sorted(
        (_size(name, recipe, budget, published, lengths) for name in model_names(recipe)),
        key=lambda size: size.parameters,
    )
    enough = published / next(size.parameters for size in found if size.model == ENOUGH)
    able = [size for size in found if size.tokens]
    if not able:
        smallest = found[0]
        fitting = [gpu for gpu in GPUS.values() if gpu.memory_mib > budget.machine.device.memory_mib]
        more = f"a GPU with more memory ({', '.join(gpu.name for gpu in fitting)}), or " if fitting else ""
        raise ConfigError(
            f"{number_text(budget.gpu_hours)} GPU-hours on {budget.machine.name} train no model, not even "
            f"{smallest.model}",
            f"take {more}more time: one step of each phase is the least",
        )
    good = [size for size in able if (size.tokens_a_parameter or 0) >= enough]
    chosen = good[-1] if good else able[0]
    command = suggest(chosen, budget, published)
    return Answer(budget, tuple(found), published, enough, good[-1].model if good else None, command)


def model_names(recipe: Config) -> list[str]:
    """Return the presets with the recipe's vocabulary, one name a shape."""
    by_shape: dict[Any, str] = {}
    names = sorted(path.stem for path in (YAML_FOLDER / "model").glob("*.yaml"))
    for name in sorted(names, key=lambda each: each[:1].isdigit()):  # base rather than 150m
        model = preset(name)
        if model.vocab_size == recipe.model.vocab_size:
            by_shape.setdefault(model, name)
    return list(by_shape.values())


def suggest(size: Size, budget: Budget, published_tokens: int) -> tuple[str, ...]:
    """Return the overrides of train.py that scale the recipe to a size's tokens, its ramps and intervals with it."""
    config = compose([f"recipe={RECIPE}"])
    scale = min(1.0, (size.tokens or 0) / published_tokens)
    named = f"{size.model}_{format_tokens(size.tokens or 0)}"
    own = [f"recipe={RECIPE}", f"model={size.model}", f"run.name={named}"]
    for name in config.phase_order:
        phase, key = config.phases[name], f"phases.{name}"
        own.append(f"{key}.tokens={format_tokens(_round(phase.tokens * (size.tokens or 0) / published_tokens))}")
        if phase.lr.warmup_tokens:
            own.append(f"{key}.lr.warmup_tokens={format_tokens(_round(phase.lr.warmup_tokens * scale))}")
        if phase.batch.warmup is not None:
            own.append(f"{key}.batch.warmup.tokens={format_tokens(_round(phase.batch.warmup.tokens * scale))}")
        every = _round(phase.save_every_tokens * scale)
        own.append(f"{key}.save_every_tokens={format_tokens(every)}")
        if phase.keep_every_tokens is not None:
            times = phase.keep_every_tokens // phase.save_every_tokens
            own.append(f"{key}.keep_every_tokens={format_tokens(every * times)}")
        own.append(f"{key}.eval_every_tokens={format_tokens(every)}")
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
        return name, parameters, "none", "", "", "does not fit"
    ratio = size.tokens_a_parameter / found.enough
    word = f"{number_text(ratio)} times{', suggested' if name == found.suggested else ''}"
    share = f"{size.tokens / found.published_tokens:.1%}"
    return name, parameters, approximate_tokens(size.tokens), share, number_text(size.tokens_a_parameter), word


def _closing(found: Answer) -> list[str]:
    lines = [
        f"published: {approximate_tokens(found.published_tokens)} tokens for every size, so "
        f"{number_text(found.enough)} a parameter for ModernBERT-large; hours include evaluation and the rest",
        f"speed: a model with {FREE_CONSTANTS} fitted constants, within {LARGEST_ERROR:.0%} of the published hours on "
        f"8 H100{SMALL_MODELS}",
    ]
    if found.suggested is None:
        lines.append("no size has as many tokens a parameter as ModernBERT-large; the smallest comes nearest:")
    else:
        lines.append(f"suggested: {found.suggested}, the largest with at least as many:")
    return [*lines, f"  train.py {' '.join(found.command)}"]


def _size(name: str, recipe: Config, budget: Budget, published_tokens: int, lengths: str | None) -> Size:
    config = replace(recipe, model=preset(name))
    parameters = count_parameters(config.model).total
    try:
        fitting = divisors_that_fit(config, budget.machine, largest_microbatch(config, budget.machine))
    except ConfigError:
        fitting = []
    if not fitting:
        return Size(name, parameters, None, None)
    run = estimate(config, budget.machine, fitting[-1], 0.0, lengths)
    least = sum(phase.plan.levels[-1][1] for phase in run.phases) * config.data.block_tokens
    tokens = _tokens_in(run, budget.gpu_hours, published_tokens)
    return Size(name, parameters, tokens if tokens >= 2 * least else None, fitting[-1])


def _tokens_in(run: RunEstimate, gpu_hours: float, published_tokens: int) -> int:
    """Return the tokens whose GPU-hours, with evaluation and the rest, are the budget; by halving.

    Hours grow with the tokens of the phases, which keep their shares; other hours of a phase are capped as in the plan.
    """
    low, high = 0.0, 1000.0
    for _ in range(60):
        scale = (low + high) / 2
        hours = sum(
            scale * phase.gpu_hours_training + other_gpu_hours(scale * phase.gpu_hours_training) for phase in run.phases
        )
        low, high = (scale, high) if hours <= gpu_hours else (low, scale)
    return _round(low * published_tokens)


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
