"""Branches: phases that each start where the last of ``phase_order`` ended. A branch is trained as a run of its own.

    short -> context -+-> code           runs/<name>/branches/code
                      +-> science        runs/<name>/branches/science
                      +-> long           runs/<name>/branches/long

Its configuration is its trunk's with one phase more, so all that holds for a phase and for a run holds for it.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from padless.config.schema import PROFILE_FROM_STEP, Config, RunConfig, StartConfig
from padless.config.stored import random_init
from padless.errors import PadlessError

FOLDER = "branches"


def with_branches(config: Config) -> Config:
    """Return the configuration with all branches among its phases: for what looks at every phase, in no order."""
    return replace(config, phases={**config.phases, **config.branches})


def branch_config(config: Config, name: str, source: str) -> Config:
    """Return the configuration of the run that trains one branch.

    Args:
        config: the trunk's.
        name: of the branch.
        source: the checkpoint at which the trunk's last phase ended; weights, moments and clock are kept.
    """
    return replace(
        config,
        run=_branch_run(config.run, name),
        phases={**config.phases, name: config.branches[name]},
        phase_order=(*config.phase_order, name),
        branches={},
        init=random_init(),  # the weights are the trunk's, however those began
        start=StartConfig(source, ("weights", "optimizer", "clock")),
    )


def _branch_run(run: RunConfig, name: str) -> RunConfig:
    here, there = f"{FOLDER}.{name}.", f"phases.{name}."
    others = tuple(change for change in run.accept_changes if not change.startswith(f"{FOLDER}."))
    own = tuple(there + change.removeprefix(here) for change in run.accept_changes if change.startswith(here))
    is_alone = run.branch is not None
    return replace(
        run,
        name=name,
        folder=str(Path(run.folder) / run.name / FOLDER),
        stop_after_tokens=None,
        accept_changes=(*others, *own),
        profile_steps=run.profile_steps if is_alone else None,
        profile_from_step=run.profile_from_step if is_alone else PROFILE_FROM_STEP,
        branch=None,
    )


@contextlib.contextmanager
def naming_branch(name: str) -> Iterator[None]:
    """Have errors name the settings of a branch as the user wrote them: ``branches.<name>``, not ``phases.<name>``."""
    try:
        yield
    except PadlessError as error:
        cause, remedy = (in_words_of_branch(text, name) for text in (error.cause, error.remedy))
        if (cause, remedy) == (error.cause, error.remedy):
            raise
        raise type(error)(cause, remedy) from error


def in_words_of_branch(text: str, name: str) -> str:
    """Return ``text`` with the settings of a branch named as the user wrote them."""
    return re.sub(rf"\bphases\.{re.escape(name)}(?![\w-])", f"{FOLDER}.{name}", text)
