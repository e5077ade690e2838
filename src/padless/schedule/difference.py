"""May a run go on with a changed configuration? Only if nothing that has already been computed would be different.

A resume may change whatever leaves every function of the clock unchanged before it: later phases, the length of the
last one, loggers, hardware, folders, intervals. For the phase in progress the schedule is compared step by step.
"""

from typing import Any

from padless.config.load import phase_results, results_part, to_plain
from padless.config.schema import Config
from padless.config.stored import load_stored
from padless.schedule.phases import PhasePlan, plan_phases
from padless.schedule.step import settings_at

_ALL_STEPS = 2_048  # compared one by one up to here
_AROUND_BORDER = 4
_SCHEDULE_KEYS = ("tokens", "lr", "weight_decay", "batch", "masking")


def results_difference(old: dict[str, Any], new: Config, clock_tokens: int) -> list[str]:
    """Return the settings by which ``new`` would have computed something else before ``clock_tokens``.

    Args:
        old: the configuration of the run so far, from :func:`padless.config.load.to_plain`.
        new: the configuration it is to go on with.
        clock_tokens: clock of the checkpoint to go on from.

    Returns:
        One line for each setting, ``key: old value -> new value``; empty if the run may go on.

    Raises:
        ConfigError: ``old`` was written for other keys than this version knows.
    """
    old_config = load_stored(old)
    old_results, new_results = results_part(old_config), results_part(new)
    lines = []
    for section in ("run", "model", "optimizer", "loss", "init", "start"):
        lines += _changes(old_results[section], new_results[section], section)
    fixed_data = ("block_tokens", "shuffle", "num_canonical_nodes")
    for key in fixed_data:
        lines += _changes(old_results["data"][key], new_results["data"][key], f"data.{key}")
    return lines + _phase_changes(old_config, new, clock_tokens)


def _phase_changes(old: Config, new: Config, clock_tokens: int) -> list[str]:
    """Compare the phases that have begun, in order."""
    old_plans = plan_phases(old)
    begun = [plan for plan in old_plans if plan.start_tokens < clock_tokens]
    begun_names = [plan.name for plan in begun]
    if list(new.phase_order[: len(begun)]) != begun_names:
        return [f"phase_order: {begun_names} have begun -> {list(new.phase_order)}"]
    old_plain, new_plain = to_plain(old)["phases"], to_plain(new)["phases"]
    lines = []
    for plan in begun:
        is_current = plan is begun[-1]
        compared, against = phase_results(old_plain[plan.name]), phase_results(new_plain[plan.name])
        changed = _changes(compared, against, f"phases.{plan.name}")
        if is_current and changed and not lines and _only_schedule_differs(compared, against):
            changed = changed if _schedule_differs(plan, plan_phases(new)[plan.index], clock_tokens) else []
        lines += changed
    return lines


def _only_schedule_differs(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether all differences are in settings that a step takes from the clock.

    The quantum decides how data is cut into passes and the mask shares what a masked token becomes, so neither is.
    """
    same = [old[key] == new[key] for key in old if key not in _SCHEDULE_KEYS]
    same.append(old["batch"]["quantum_blocks"] == new["batch"]["quantum_blocks"])
    same += [old["masking"][key] == new["masking"][key] for key in ("mask_share", "random_share")]
    return all(same) and old["lr"]["peak"] == new["lr"]["peak"]


def _schedule_differs(old: PhasePlan, new: PhasePlan, clock_tokens: int) -> bool:
    """Whether some step between the phase's start and the clock would have had other settings, or not have been.

    Takes no longer the further a run is: of many steps, those around every border of either schedule are compared and
    some in between. Between two borders a schedule is a constant, a line, a cosine or a root, and two of these that
    agree on that many steps are the same.
    """
    steps = old.step_at_clock(clock_tokens)
    for step in _telling_steps(old, new, steps):
        clock = old.clock_at_step(step)
        if clock >= new.end_tokens or clock != new.clock_at_step(step):
            return True
        if settings_at(old, clock) != settings_at(new, clock):
            return True
    return False


def _telling_steps(old: PhasePlan, new: PhasePlan, steps: int) -> list[int]:
    """Return the steps, of ``steps`` done, whose settings tell the two schedules apart."""
    if steps <= _ALL_STEPS:
        return list(range(steps))
    borders = {0, steps}
    for plan in (old, new):
        lr, masking, tokens = plan.phase.lr, plan.phase.masking, plan.phase.tokens
        places = [lr.warmup_tokens, tokens - (lr.decay_tokens or 0), masking.step_at_tokens or 0, tokens]
        places += [start * plan.block_tokens for start, _ in plan.levels]
        borders |= {old.step_at_clock(old.start_tokens + place) for place in places}
    near = {border + offset for border in borders for offset in range(-_AROUND_BORDER, _AROUND_BORDER + 1)}
    between = {step * steps // _ALL_STEPS for step in range(_ALL_STEPS)}
    return sorted(step for step in near | between if 0 <= step < steps)


def _changes(old: Any, new: Any, path: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        lines = [_changes(old.get(key), new.get(key), f"{path}.{key}") for key in keys]
        return [line for section in lines for line in section]
    return [] if old == new else [f"{path}: {old} -> {new}"]
