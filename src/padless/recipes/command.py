"""``padless recipes list | show NAME | diff A B``: look at the recipes; no torch, no GPU, no data."""

import dataclasses
import json
from typing import Any

from rich.console import Console

from padless.config.compose import YAML_FOLDER
from padless.config.load import nearest_key, to_plain
from padless.errors import ConfigError
from padless.plan.table import plan_rows, print_plan
from padless.recipes.read import Recipe, read_recipe, recipe_names
from padless.recipes.sources import files_of, header_of, sources_of
from padless.recipes.table import (
    difference_table,
    list_table,
    recipe_differences,
    rows_by_section,
    section_table,
)

_USAGE = "write: padless recipes list, padless recipes show NAME, or padless recipes diff A B"
_NAMES = {"list": 0, "show": 1, "diff": 2}  # how many recipes each is given


def recipes_command(arguments: list[str], as_json: bool) -> None:
    """List the recipes, show one with the source of every value, or compare two.

    Args:
        arguments: ``list``, ``show NAME`` or ``diff A B``; nothing is ``list``.
        as_json: print one JSON object instead of tables.

    Raises:
        ConfigError: another word, another number of names, or no recipe of that name.
    """
    word, *names = arguments or ["list"]
    if word not in _NAMES:
        nearest = nearest_key(word, list(_NAMES))
        hint = f"did you mean {nearest}? " if nearest else ""
        raise ConfigError(f"padless recipes has no {word!r}", f"{hint}{_USAGE}")
    if len(names) != _NAMES[word]:
        raise ConfigError(f"padless recipes {word} takes {_NAMES[word]} name(s), {len(names)} given", _USAGE)
    console = Console()
    if word == "list":
        _list([read_recipe(name) for name in recipe_names()], as_json, console)
    elif word == "show":
        _show(read_recipe(names[0]), as_json, console)
    else:
        _diff(read_recipe(names[0]), read_recipe(names[1]), as_json, console)


def _list(recipes: list[Recipe], as_json: bool, console: Console) -> None:
    if as_json:
        _print_json(console, {"ok": True, "recipes": [_summary(recipe) for recipe in recipes]})
        return
    console.print(list_table(recipes, console.width))


def _show(recipe: Recipe, as_json: bool, console: Console) -> None:
    overrides = [f"recipe={recipe.name}"]
    sections = rows_by_section(recipe, sources_of(overrides))
    if as_json:
        settings = [
            {"key": key, "value": value, **(dataclasses.asdict(source) if source else {})}
            for rows in sections.values()
            for key, value, source in rows
        ]
        plan = [dataclasses.asdict(row) for row in plan_rows(recipe.config)]
        _print_json(console, {"ok": True, **_summary(recipe), "plan": plan, "settings": settings})
        return
    for file, _ in files_of(overrides):
        if file.startswith(("recipe/", "model/")):
            lines = [f"yamls/{file}", *(f"  {line}" for line in header_of(YAML_FOLDER / file)), ""]
            console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    print_plan(recipe.config, console)
    for name, rows in sections.items():
        console.print()
        console.print(section_table(name, rows, console.width))
    if recipe.needs:
        console.print(f"\nstill to be given: {', '.join(recipe.needs)}", markup=False, highlight=False)


def _diff(a: Recipe, b: Recipe, as_json: bool, console: Console) -> None:
    entries = recipe_differences(a, b)
    if as_json:
        settings = [{"key": key, "a": in_a, "b": in_b} for key, in_a, in_b in entries]
        _print_json(console, {"ok": True, "a": a.name, "b": b.name, "settings": settings})
    elif entries:
        console.print(difference_table(a, b, entries))
    else:
        console.print(f"{a.name} and {b.name} differ in nothing but their names", markup=False, highlight=False)


def _summary(recipe: Recipe) -> dict[str, Any]:
    config = recipe.config
    return {
        "name": recipe.name,
        "description": recipe.description,
        "parameters": recipe.parameters,
        "tokens": recipe.tokens,
        "phases": [{"name": name, "tokens": config.phases[name].tokens} for name in config.phase_order],
        "branches": [{"name": name, "tokens": phase.tokens} for name, phase in config.branches.items()],
        "model": to_plain(config)["model"],
        "hardware": list(recipe.hardware),
        "needs": list(recipe.needs),
    }


def _print_json(console: Console, content: dict[str, Any]) -> None:
    console.print(json.dumps(content), markup=False, highlight=False, soft_wrap=True)
