"""Settings that changed since a checkpoint was written: what may, what may on purpose, and what may not.

Whatever leaves every step before the checkpoint as it was may change freely (:mod:`padless.schedule.difference`). Of
the rest, seeds, data and rates may change where ``run.accept_changes`` names them; the lineage then says so. What gives
weights or clock another meaning may not change at all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from padless.checkpoint import Checkpoint, open_checkpoint
from padless.checkpoint.named import checkpoint_by_name
from padless.config.check_keeping import may_be_accepted
from padless.config.load import to_plain
from padless.config.schema import Config
from padless.errors import CheckpointError
from padless.schedule.difference import results_difference
from padless.schedule.phases import PhasePlan
from padless.train.handover import StartState, state_from_run

_OWN = (  # a branch has its own of these
    "init.",
    "start.",
    "branches.",
    "run.name:",
    "run.folder:",
    "run.accept_changes:",
    "run.branch:",
)
_DATA_ORDER = ("streams", "shuffle_seed")  # of a phase; a branch goes on in its parent's data unless told otherwise


def changes_of_the_past(meta: Mapping[str, Any], config: Config, hashes: Mapping[str, str]) -> list[str]:
    """Return what would have computed something else before a checkpoint, one ``setting: old -> new`` each.

    Args:
        meta: facts of the checkpoint.
        config: the configuration it is to go on with.
        hashes: content of each stream now.
    """
    changes = results_difference(meta["config"], config, int(meta["clock_tokens"]))
    return changes + [
        f"data.streams.{name}: content {meta['data'].get(name)} -> {digest}"
        for name, digest in hashes.items()
        if meta["data"].get(name, digest) != digest
    ]


def refuse_changes(changes: Sequence[str], accepted: Sequence[str], whose: str) -> None:
    """Stop unless every change is accepted by name.

    Args:
        changes: from :func:`changes_of_the_past`.
        accepted: ``run.accept_changes``.
        whose: folder or file that the old values belong to.

    Raises:
        CheckpointError: names each setting with its old and new value, and the switch that accepts it.
    """
    names = [change.partition(":")[0] for change in changes]
    refused = [change for change, name in zip(changes, names, strict=True) if name not in accepted]
    if not refused:
        return
    acceptable = [name for name in names if may_be_accepted(name)]
    switch = (
        f"; to go on with the change on purpose: run.accept_changes=[{','.join(acceptable)}]"
        if len(acceptable) == len(names)
        else ""
    )
    longer = any(name.startswith("phases.") and name.endswith(".tokens") for name in names)
    extend = "; to train longer: add a later phase, or branch off where this one begins" if longer else ""
    raise CheckpointError(
        f"{whose} belongs to another config; old -> new: " + "; ".join(refused),
        f"set these back, or choose another run.name for a new run{switch}{extend}",
    )


def branch_from(
    source: str, config: Config, hashes: Mapping[str, str], tokenizer_sha256: str, plans: Sequence[PhasePlan]
) -> tuple[StartState, list[str]]:
    """Return the state of a new run that goes on from a checkpoint's clock, and the settings that are not its parent's.

    Rates, decay, masking, optimizer and dropout may be anything; the data goes on, so what orders it must be the
    parent's unless ``run.accept_changes`` names it.

    Raises:
        CheckpointError: not a checkpoint file, nothing is left to train, or a setting that may not differ does.
    """
    path = Path(source) if Path(source).exists() else checkpoint_by_name(source) or Path(source)
    if path.is_dir():
        raise CheckpointError(
            f"start.keep=[weights,optimizer,clock], but {source} is a folder, which has no clock",
            "give a .pt file from a run's checkpoints/ folder, or start.keep=[weights]",
        )
    saved, parent = open_checkpoint(path)
    if saved.clock_tokens >= plans[-1].end_tokens:
        raise CheckpointError(
            f"{source} stands at {saved.clock_tokens:_} tokens, the phases end at {plans[-1].end_tokens:_}",
            "branch off an earlier checkpoint, or give the last phase more tokens",
        )
    if saved.meta["tokenizer_sha256"] != tokenizer_sha256:
        raise CheckpointError(
            f"{source} was trained with another tokenizer ({saved.meta['tokenizer_sha256'][:12]}) than the shards "
            f"({tokenizer_sha256[:12]})",
            "branch off with the data of its run",
        )
    refuse_without_moments(saved, source)
    past = [each for each in changes_of_the_past(saved.meta, config, hashes) if not each.startswith(_OWN)]
    refuse_changes([each for each in past if _must_be_the_parents(each)], config.run.accept_changes, source)
    content = [each for each in past if each.startswith("data.streams.")]
    return state_from_run(saved, source), [
        *[each for each in all_changes(parent, _phases_of(parent, config)) if not each.startswith(_OWN)],
        *content,
    ]


def _phases_of(parent: Config, config: Config) -> Config:
    """Return ``config`` without the phases that the parent did not have: ``phase_order`` says that they are new."""
    return replace(config, phases={name: phase for name, phase in config.phases.items() if name in parent.phases})


def refuse_without_moments(saved: Checkpoint, path: str | Path) -> None:
    """Refuse to go on at the clock of weights alone, such as a merge: the optimizer would begin anew in silence.

    Raises:
        CheckpointError: the checkpoint has no optimizer moments.
    """
    if saved.optimizer is None:
        raise CheckpointError(
            f"{path} holds weights only, no optimizer moments, and a run cannot go on from it at its clock",
            f"begin a new run with its weights: start.source={path} start.keep=[weights]",
        )


def _must_be_the_parents(change: str) -> bool:
    name = change.partition(":")[0]
    parts = name.split(".")
    orders_data = parts[0] == "data" or (parts[0] == "phases" and len(parts) > 2 and parts[2] in _DATA_ORDER)
    return orders_data or not may_be_accepted(name)


def all_changes(old: Config, new: Config) -> list[str]:
    """Return every setting that differs, results or not, one ``setting: old -> new`` each."""
    before, after = _flat(to_plain(old)), _flat(to_plain(new))
    names = [*before, *(name for name in after if name not in before)]
    return [
        f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
        for name in names
        if before.get(name, "absent") != after.get(name, "absent")
    ]


def _flat(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{path}.{key}" if path else key
        found |= _flat(value, name) if isinstance(value, dict) else {name: value}
    return found
