"""The anneal lab: several decays from one stable checkpoint, each a run of its own in ``<run>/branches/<name>/``.

A branch begins at the checkpoint where the last phase ended, with weights, moments and clock, and has a lock, lineage,
metrics, checkpoints, status and export of its own. What holds for any run holds for it: the same command goes on where
it was killed, ``padless diff`` compares it, and ``run.branch=<name>`` trains it alone, on another machine if need be.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from padless.checkpoint import list_checkpoints
from padless.config.branches import FOLDER, branch_config, naming_branch
from padless.config.load import config_hash
from padless.config.schema import Config
from padless.config.stored import read_stored_yaml
from padless.data.preflight import PreparedData
from padless.errors import CheckpointError, PadlessError
from padless.run_files import BRANCHES_PICTURE, CONFIG
from padless.schedule.phases import PhasePlan, plan_phases
from padless.train.branch_report import branch_results, plot_branches, print_branches
from padless.train.folder import RunFolder
from padless.train.hardware import Compute
from padless.train.status import read_status
from padless.train.supervise import Supervisor, supervised_branch
from padless.train.world import World
from padless.units import approximate_tokens


@dataclass(frozen=True)
class Ready:
    """What a trunk and its branches share: the ranks, how they compute, the opened data, where lines go."""

    world: World
    compute: Compute
    data: PreparedData
    console: Console
    say: Callable[[str], None]


@dataclass(frozen=True)
class Reached:
    """Where a run ended in this process: its clock, and the checkpoint there."""

    clock_tokens: int
    checkpoint: Path


@dataclass(frozen=True)
class Branch:
    """One branch as a run: its name, its configuration and its folder."""

    name: str
    config: Config
    path: Path


TrainOne = Callable[[Config, Ready, RunFolder, Supervisor, float], Reached]


def train_branches(
    config: Config, ready: Ready, trunk_folder: Path, trunk_end: Reached, trunk: Supervisor, train_one: TrainOne
) -> None:
    """Train the branches that are not done yet, in order, then compare them all.

    Args:
        config: the trunk's.
        ready: what is shared.
        trunk_folder: the trunk's run folder.
        trunk_end: where the trunk ended.
        trunk: holds the trunk's folder, and keeps it.
        train_one: trains one run in its folder.

    Raises:
        PadlessError: as any run; settings of a branch are named as the user wrote them.
        Stopped: a signal ended it, with a checkpoint of the branch under way.
    """
    if not config.branches:
        return
    end_tokens = plan_phases(config)[-1].end_tokens
    if trunk_end.clock_tokens < end_tokens:
        ready.say(
            f"branches not trained ({', '.join(config.branches)}): they begin where the phases end, "
            f"at {approximate_tokens(end_tokens)} tokens"
        )
        return
    for name in config.branches:
        branch = _branch(config, name, trunk_end.checkpoint)
        if _is_done(branch, ready.world):
            ready.say(f"branch {name!r}: done, in {branch.path}")
            continue
        ready.say(f"branch {name!r}: from {trunk_end.clock_tokens:_} tokens, in {branch.path}")
        trunk.write("running", message=f"branch {name!r}")
        began_s = time.perf_counter()
        folder = RunFolder(branch.path, ready.world.is_leader)
        with naming_branch(name), supervised_branch(folder.path, ready.world, trunk, ready.say) as supervisor:
            train_one(branch.config, ready, folder, supervisor, began_s)
    compare_branches(config, ready)
    ready.say(f"run folder: {trunk_folder} ({FOLDER}/, branches.png)")


def find_one_branch(config: Config, world: World) -> Branch:
    """Return the branch that ``run.branch`` asks for, from the trunk's checkpoint on disk.

    Raises:
        CheckpointError: the trunk has no whole checkpoint at the end of its last phase.
    """
    assert config.run.branch is not None
    plan = plan_phases(config)[-1]
    trunk_folder = Path(config.run.folder) / config.run.name
    found = world.gather(_phase_end(trunk_folder, plan) if world.is_leader else None)[0]
    if found is None:
        raise CheckpointError(
            f"run.branch={config.run.branch} begins where phase {plan.name!r} ends, at "
            f"{approximate_tokens(plan.end_tokens)} tokens, and {trunk_folder} has no whole checkpoint there",
            "train the phases first: the same command without run.branch",
        )
    return _branch(config, config.run.branch, found)


def _phase_end(run_folder: Path, plan: PhasePlan) -> Path | None:
    """Return the whole checkpoint at which the last phase ended; nothing in the folder is changed."""
    rows = [
        row for row in list_checkpoints(run_folder, read_files=False) if row.phase == plan.name and row.can_be_taken
    ]
    ends = [row for row in rows if row.clock_tokens >= plan.end_tokens]
    return ends[-1].path if ends else None


def _branch(config: Config, name: str, source: Path) -> Branch:
    of_branch = branch_config(config, name, str(source))
    return Branch(name, of_branch, Path(of_branch.run.folder) / name)


def _is_done(branch: Branch, world: World) -> bool:
    """Return, on every rank, whether this branch with these settings has been trained to its end."""
    return world.gather(_has_finished(branch) if world.is_leader else False)[0]


def _has_finished(branch: Branch) -> bool:
    try:
        status = read_status(branch.path)
        if status is None or status.state != "finished":
            return False
        before = read_stored_yaml(branch.path / CONFIG)
        return config_hash(before) == config_hash(branch.config)
    except PadlessError:
        return False  # training it again says what is wrong with its folder


def compare_branches(config: Config, ready: Ready) -> None:
    """Print the branches' last validation losses in one table, and draw their decays into ``branches.png``."""
    if not ready.world.is_leader:
        return
    trunk_folder = Path(config.run.folder) / config.run.name
    results = branch_results(config, trunk_folder)
    print_branches(results, ready.console)
    plot_branches(config, trunk_folder, trunk_folder / BRANCHES_PICTURE)
