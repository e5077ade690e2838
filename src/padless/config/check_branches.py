"""The rules of branches: names, the one that is asked for alone, and every rule of a phase for each of them."""

from collections.abc import Callable, Sequence

from padless.config.branches import branch_config, in_words_of_branch, naming_branch
from padless.config.load import nearest_key
from padless.config.schema import Config
from padless.errors import ConfigError


def check_branches(
    config: Config, check_run: Callable[[Config], list[str]], trunk_warnings: Sequence[str]
) -> list[str]:
    """Check the branches, each as the run that trains it, and return the warnings that the trunk does not have.

    Args:
        config: the trunk's, whose own rules hold.
        check_run: checks the configuration of one run without branches and returns its warnings.
        trunk_warnings: those of the trunk.

    Raises:
        ConfigError: a branch is impossible, contradicts another setting, or would have no effect.
    """
    _check_names(config)
    _check_one_alone(config)
    lines: list[str] = []
    for name in config.branches:
        with naming_branch(name):
            warnings = check_run(branch_config(config, name, "the trunk's last checkpoint"))
        lines += [in_words_of_branch(line, name) for line in warnings if line not in trunk_warnings]
    return lines


def _check_names(config: Config) -> None:
    for name in config.branches:
        if name in config.phases:
            raise ConfigError(
                f"branches.{name} is called like a phase",
                "give the branch another name: checkpoints lie in folders of these names",
            )
        if not name or any(not (character.isalnum() or character in "-_") for character in name):
            raise ConfigError(f"branches: {name!r} cannot name a folder", "use letters, digits, - and _")


def _check_one_alone(config: Config) -> None:
    name, stop = config.run.branch, config.run.stop_after_tokens
    if name is None:
        return
    if name not in config.branches:
        nearest = nearest_key(name, list(config.branches))
        hint = f"did you mean run.branch={nearest}? " if nearest else ""
        there = ", ".join(config.branches) or "none, the recipe has no branches"
        raise ConfigError(f"run.branch={name} is no branch of the recipe", f"{hint}there are: {there}")
    if stop is not None:
        raise ConfigError(
            f"run.stop_after_tokens={stop:_} has no effect with run.branch={name}: it ends the phases before them",
            "remove it, or give the branch fewer tokens",
        )
