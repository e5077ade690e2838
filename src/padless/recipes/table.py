"""Recipes as tables: one line a recipe, one recipe with its sources, two recipes side by side."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from padless.config.differences import differences
from padless.config.load import to_plain
from padless.recipes.read import Recipe
from padless.recipes.sources import Source
from padless.units import approximate_tokens, format_tokens

_OF_THE_RECIPE = (
    "model",
    "data",
    "optimizer",
    "loss",
    "init",
    "start",
    "eval",
)  # in one section each, after the phases
_NEVER_FOLDED = ("recipe", "parameters", "tokens", "phases", "setting", "value")
_NOT_OF_THE_RECIPE = ("run.name", "run.folder", "hardware", "loggers", "export", "guard")

_GAP = 2  # between columns
WIDE = 120  # characters of a terminal from which on a table has all its columns

Row = tuple[str, Any, Source | None]  # full name of a setting, its value, where it is written


def list_table(recipes: Sequence[Recipe], width: int) -> Table:
    """Return one line a recipe: name, parameters, tokens, phases, description; in a narrow terminal no phases.

    Args:
        recipes: in order.
        width: of the terminal, in characters.
    """
    is_wide = width >= WIDE
    table = _table("recipe", "parameters", "tokens", *(("phases",) if is_wide else ()), "what it is")
    for recipe in recipes:
        needs = f" (needs {', '.join(recipe.needs)})" if recipe.needs else ""
        cells = [recipe.name, approximate_tokens(recipe.parameters), approximate_tokens(recipe.tokens)]
        cells += [phases_text(recipe)] if is_wide else []
        table.add_row(*map(Text, [*cells, f"{recipe.description}{needs}"]))
    return table


def phases_text(recipe: Recipe) -> str:
    """Return the phases with their tokens, and how many branches follow."""
    config = recipe.config
    phases = "\n".join(f"{name} {approximate_tokens(config.phases[name].tokens)}" for name in config.phase_order)
    ends = "".join(f"\nbranch {name} {approximate_tokens(phase.tokens)}" for name, phase in config.branches.items())
    return phases + ends


def rows_by_section(recipe: Recipe, sources: Mapping[str, Source]) -> dict[str, list[Row]]:
    """Return every setting of a recipe with its source: a section a phase, in order, a branch, then the rest."""
    plain = to_plain(recipe.config)
    phases = {f"phases.{name}": plain["phases"][name] for name in recipe.config.phase_order}
    branches = {f"branches.{name}": branch for name, branch in plain["branches"].items()}
    run = {"run": {"seed": plain["run"]["seed"]}}
    rest = {name: plain[name] for name in _OF_THE_RECIPE}
    sections = {**phases, **branches, **run, **rest}
    return {
        name: [(key, value, _nearest_source(key, sources)) for key, value in flat(section, name)]
        for name, section in sections.items()
    }


def section_table(name: str, rows: Sequence[Row], width: int) -> Table:
    """Return one section of a recipe: setting, value, the comment behind it, file and line.

    In a narrow terminal file and line stand below the comment, so that neither is broken.

    Args:
        name: the section's title.
        rows: its settings.
        width: of the terminal, in characters.
    """
    is_wide = width >= WIDE
    table = _table("setting", "value", "source", "written in") if is_wide else _table("setting")
    table.title, table.title_justify, table.title_style = name, "left", "bold"
    if not is_wide:
        table.add_column("value", overflow="fold", max_width=_left_for_values(name, rows, width))
        table.add_column("source, and where it is written", overflow="fold")
    for key, value, source in rows:
        said = [source.comment if source else "", _place(source)]
        cells = said if is_wide else ["\n".join(filter(None, said))]
        table.add_row(*map(Text, [key.removeprefix(f"{name}."), value_text(key, value), *cells]))
    return table


def _left_for_values(name: str, rows: Sequence[Row], width: int) -> int:
    """Return the characters beside the longest setting and the longest place, each with a gap; 4 at least."""
    setting = max((len(key.removeprefix(f"{name}.")) for key, _, _ in rows), default=0)
    place = max((len(_place(source)) for _, _, source in rows), default=0)
    return max(4, width - setting - place - 3 * _GAP)


def _place(source: Source | None) -> str:
    return f"{source.file}:{source.line}" if source else ""


def recipe_differences(a: Recipe, b: Recipe) -> list[tuple[str, Any, Any]]:
    """Return (setting, value in ``a``, value in ``b``), one entry a field; ``None`` where a recipe has no such field.

    Names, hardware, loggers, the guard and the export are no part of a recipe and are left out.
    """
    found = differences(to_plain(a.config), to_plain(b.config))
    entries = [entry for whole in found for entry in _by_field(*whole)]
    return [entry for entry in entries if not _is_under(entry[0], _NOT_OF_THE_RECIPE)]


def difference_table(a: Recipe, b: Recipe, entries: Sequence[tuple[str, Any, Any]]) -> Table:
    """Return two recipes side by side, the fields that differ."""
    table = _table("setting", a.name, b.name)
    for key, in_a, in_b in entries:
        table.add_row(Text(key), Text(value_text(key, in_a)), Text(value_text(key, in_b)))
    return table


def flat(section: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (full name, value) of every field of a section; an empty section is a value."""
    if isinstance(section, Mapping) and section:
        for key, value in section.items():
            yield from flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, section


def value_text(key: str, value: Any) -> str:
    """Return a value as a recipe writes it: tokens with a suffix, rates with an exponent where that is shorter."""
    last = key.rpartition(".")[2]
    if value is None:
        return "none"
    if type(value) is int and (last == "tokens" or last.endswith("_tokens")):
        return format_tokens(value) if value >= 10**6 else f"{value:_}"
    if isinstance(value, float):
        return f"{value:_.10g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _by_field(key: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    """Split a difference in which a section stands against nothing into one entry a field."""
    if not (isinstance(a, Mapping) or isinstance(b, Mapping)):
        yield key, a, b
        return
    in_a, in_b = (dict(flat(side, key)) if isinstance(side, Mapping) else {} for side in (a, b))
    for name in [*in_a, *(name for name in in_b if name not in in_a)]:
        yield name, in_a.get(name), in_b.get(name)


def _nearest_source(key: str, sources: Mapping[str, Source]) -> Source | None:
    """Return the source of a key, or of the section it is in where the file gives the section whole."""
    while key and key not in sources:
        key = key.rpartition(".")[0]
    return sources.get(key)


def _is_under(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, _GAP, 0, 0))
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in _NEVER_FOLDED)
    return table
