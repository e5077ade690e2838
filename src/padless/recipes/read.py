"""A recipe as a thing to look at: its configuration, what it is called, and what it still needs."""

import re
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from padless.config.compose import YAML_FOLDER, compose_tree
from padless.config.load import load_config, missing_values, nearest_key
from padless.config.schema import Config
from padless.errors import ConfigError
from padless.model.count import count_parameters
from padless.recipes.sources import header_of

TO_BE_GIVEN = "<to be given>"
_FOLDER = YAML_FOLDER / "recipe"


@dataclass(frozen=True)
class Recipe:
    """One file of ``yamls/recipe/``, composed.

    Attributes:
        name: as in ``recipe=<name>``.
        description: the first line of the file.
        config: its configuration; what is still to be given reads ``<to be given>``.
        needs: full names of the settings that are still to be given.
        hardware: overrides of the command that the file's header gives, such as ``hardware=8xh100``.
    """

    name: str
    description: str
    config: Config
    needs: tuple[str, ...]
    hardware: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Parameters of the model it trains."""
        return count_parameters(self.config.model).total

    @property
    def tokens(self) -> int:
        """Nominal tokens of its phases together; branches are not counted, each is one of several ends."""
        return sum(phase.tokens for phase in self.config.phases.values())


def recipe_names() -> list[str]:
    """Return the names of all recipes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def read_recipe(name: str) -> Recipe:
    """Return the recipe called ``name``.

    Raises:
        ConfigError: there is none; the remedy names the nearest.
    """
    if name not in recipe_names():
        nearest = nearest_key(Path(name).name, recipe_names())
        hint = f"did you mean {nearest}? " if nearest else ""
        raise ConfigError(f"there is no recipe called {name!r}", f"{hint}padless recipes list names them all")
    tree = compose_tree([f"recipe={name}"])
    needs = missing_values(OmegaConf.to_container(tree, resolve=False))
    for key in needs:
        OmegaConf.update(tree, key, TO_BE_GIVEN)
    header = header_of(_FOLDER / f"{name}.yaml")
    return Recipe(
        name=name,
        description=header[0] if header else "",
        config=load_config(tree),
        needs=tuple(needs),
        hardware=_hardware_in(header),
    )


def _hardware_in(header: list[str]) -> tuple[str, ...]:
    """Return the hardware settings of the first command in a header."""
    command = re.search(r"train\.py recipe=.*?(?:[^\\]\n|$)", "\n".join(header), flags=re.DOTALL)
    return tuple(re.findall(r"\bhardware(?:\.\w+)?=\S+", command.group())) if command else ()
