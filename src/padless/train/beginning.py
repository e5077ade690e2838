"""Where a run begins: at its newest whole checkpoint, at a source's weights, or at fresh ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from padless.checkpoint import newest_checkpoint, open_checkpoint
from padless.config.schema import Config
from padless.data.preflight import PreparedData
from padless.errors import CheckpointError
from padless.export.source import resolve_source
from padless.schedule.phases import PhasePlan, phase_at
from padless.schedule.skipped import SkippedRange, merged
from padless.train.changes import branch_from, changes_of_the_past, refuse_changes, refuse_without_moments
from padless.train.folder import RunFolder
from padless.train.handover import StartState, check_tokenizer, state_from_run, state_from_source
from padless.train.source_schedule import schedule_line, schedule_of
from padless.train.world import World
from padless.units import approximate_tokens


@dataclass(frozen=True)
class Beginning:
    """The state a run begins with, and how it came by it.

    Attributes:
        state: what the first phase starts from.
        event: start, branch or resume, for the lineage.
        changes: accepted changes of the past (resume), or settings that are not the parent's (branch).
        line: what to say when the first batch is there; empty for a start from clock 0.
        facts: more for the lineage: what is known of the weights that a run continues.
    """

    state: StartState
    event: str
    changes: list[str]
    line: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def find_beginning(
    config: Config,
    plans: tuple[PhasePlan, ...],
    folder: RunFolder,
    data: PreparedData,
    world: World,
    say: Callable[[str], None],
) -> Beginning:
    """Return the newest state of this run, or else what the recipe starts from.

    Raises:
        CheckpointError: no checkpoint is whole though there were some, or the config is another one's.
    """
    found = newest_checkpoint(folder.path, say) if world.is_leader else None
    path, left_out = world.gather((found, folder.read_skipped()))[0]
    _refuse_misplaced(left_out, plans)
    if path is None:
        folder.refuse_lost_checkpoints()
        if left_out and config.start.source is None:
            say(f"{len(left_out)} stretch(es) of blocks are left out of the data (skipped.json)")
        beginning = _from_recipe(config, plans, data, say)
        return _without(beginning, left_out)
    saved, _ = open_checkpoint(path)
    refuse_without_moments(saved, path)
    changes = changes_of_the_past(saved.meta, config, data.hashes)
    refuse_changes(changes, config.run.accept_changes, str(folder.path))
    for change in changes:
        say(f"note: accepted by run.accept_changes: {change}")
    for name in config.run.accept_changes:
        is_of_a_branch = name.startswith("branches.")  # which says so itself
        if not is_of_a_branch and not any(change.startswith(f"{name}:") for change in changes):
            say(f"note: run.accept_changes names {name}, which has not changed since the checkpoint")
    state = state_from_run(saved, str(path))
    if state.clock_tokens >= plans[-1].end_tokens:
        say(f"all phases are done at {approximate_tokens(state.clock_tokens)} tokens, {path}")
    return _without(Beginning(state, "resume", changes, _resumed(plans, state)), left_out)


def _without(beginning: Beginning, left_out: tuple) -> Beginning:
    skipped = tuple(merged([*beginning.state.skipped, *left_out]))
    return replace(beginning, state=replace(beginning.state, skipped=skipped))


def _refuse_misplaced(left_out: Sequence[SkippedRange], plans: tuple[PhasePlan, ...]) -> None:
    """Refuse blocks left out that no step of this run's data begins or ends with.

    Raises:
        CheckpointError: another phase, or not a multiple of its batch quantum.
    """
    quantums = {plan.name: plan.phase.batch.quantum_blocks for plan in plans}
    for each in left_out:
        quantum = quantums.get(each.phase)
        if quantum is None or each.first_block % quantum or each.num_blocks % quantum:
            raise CheckpointError(
                f"skipped.json leaves out {each.num_blocks} blocks from {each.first_block} on in phase {each.phase!r}, "
                f"which are not whole steps of this run (quantum_blocks: {quantum})",
                "restore the file that the run's rewinds wrote; lineage.jsonl has them",
            )


def _resumed(plans: tuple[PhasePlan, ...], state: StartState) -> str:
    return (
        f"resumed phase {phase_at(plans, state.clock_tokens).name} at {approximate_tokens(state.clock_tokens)} tokens "
        f"(batch {state.step:,}) from {state.origin}"
    )


def _from_recipe(
    config: Config, plans: tuple[PhasePlan, ...], data: PreparedData, say: Callable[[str], None]
) -> Beginning:
    source = config.start.source
    if source is None:
        return Beginning(StartState(None, None, 0, 0, 0.0, config.init.source or "random weights"), "start", [])
    if "clock" in config.start.keep:
        state, changes = branch_from(source, config, data.hashes, data.tokenizer_sha256, plans)
        for change in changes:
            say(f"note: not as in the run it branches off: {change}")
        return Beginning(state, "branch", changes, _resumed(plans, state))
    state, parent = state_from_source(source, config.start.keep, config.model)
    check_tokenizer(parent, source, data.tokenizer_sha256)
    seen = "unknown" if parent.tokens_seen is None else approximate_tokens(parent.tokens_seen)
    say(f"weights from {state.origin} (tokens seen by it: {seen}); this run's clock starts at 0")
    if parent.rope != plans[0].phase.rope:
        say(f"note: the source has RoPE thetas {parent.rope}, this run begins with {plans[0].phase.rope}")
    schedule = schedule_of(resolve_source(source))
    if line := schedule_line(schedule, "optimizer" in config.start.keep):
        say(f"note: {line}")
    parent_facts = {
        "tokens_seen": parent.tokens_seen,
        "kept": list(config.start.keep),
        "lr_share": schedule.lr_share,
        "phase": schedule.phase,
        "rope": list(parent.source_thetas),
        "tokenizer_sha256": parent.tokenizer_sha256,
    }
    return Beginning(state, "start", [], facts={"parent": parent_facts})


def refuse_endless_rewinds(rewinds: int, limit: int, problem: str, phase: str) -> None:
    """Stop a run that keeps going back without getting to a new checkpoint.

    Raises:
        CheckpointError: more than ``guard.max_in_a_row`` rewinds to the same checkpoint.
    """
    if rewinds > limit:
        raise CheckpointError(
            f"{rewinds} rewinds without a new checkpoint; the last: {problem}",
            f"the blocks are not the cause: start the same command with a lower phases.{phase}.lr.peak=... and "
            f"run.accept_changes=[phases.{phase}.lr.peak], or branch off an earlier checkpoint",
        )
