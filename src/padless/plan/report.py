"""A run's estimate as tables for people and as one object for programs."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from padless.plan.estimate import OTHER_GPU_HOURS, OTHER_SHARE_AT_MOST, PhaseEstimate, RunEstimate
from padless.plan.hardware import GPUS_A_MACHINE, USABLE_MEMORY
from padless.plan.memory import MemoryNeed, gib_text, need_of
from padless.plan.table import phase_row, print_plan
from padless.plan.trust import has_lengths_of_fit, is_extrapolated, model_errors, trust_line
from padless.units import approximate_bytes, approximate_tokens

_HOURS_A_YEAR = 8766.0


def print_estimate(run: RunEstimate, largest_blocks: int | None, remarks: tuple[str, ...], console: Console) -> None:
    """Print the schedule, the cost of each phase, and what the run needs of memory, disk and network.

    Args:
        run: the estimate.
        largest_blocks: that fit a device at once, or None.
        remarks: what was assumed for lack of a setting.
        console: where to.
    """
    print_plan(run.config, console)
    console.print()
    console.print(_cost_table(run))
    for line in (*lines_of(run, largest_blocks), *remarks):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def lines_of(run: RunEstimate, largest_blocks: int | None) -> Iterator[str]:
    """Yield what the tables leave out, a line each."""
    yield f"in all: {total_line(run)}"
    yield _other_line(run)
    yield error_line(run)
    yield from _data_lines(run)
    yield from _memory_lines(run, largest_blocks)
    newest = run.config.run.keep_newest_checkpoints
    yield (
        f"checkpoints: {approximate_bytes(run.checkpoint_bytes)} each, at most {approximate_bytes(run.disk_bytes)} "
        f"on disk (run.keep_newest_checkpoints={newest}, phase ends, and those of keep_every_tokens"
        f"{', of the phases and of each branch' if run.config.branches else ''})"
    )
    tokens, read = approximate_tokens(run.loader_tokens_per_s), approximate_bytes(run.loader_bytes_per_s)
    yield f"loader: {tokens} tokens/s, {read}/s from disk"
    yield from _network_lines(run)


def _other_line(run: RunEstimate) -> str:
    if run.machine.is_cpu:
        return "evaluation, checkpoints and starts are left out: how long they take on a CPU is not known"
    device = run.machine.device.name
    slower = f", times how much longer {device} trains" if is_extrapolated(run.machine) else ""
    return (
        f"of it evaluation and the rest: {OTHER_GPU_HOURS:g} GPU-hours a phase, as published for 8 H100{slower}, "
        f"at most {OTHER_SHARE_AT_MOST:.0%} of training"
    )


def total_line(run: RunEstimate) -> str:
    """Return hours, GPU-hours and cost of the whole run."""
    hours = run.gpu_hours / run.machine.count
    what = "rank-hours" if run.machine.is_cpu else "GPU-hours"
    branches = " (branches included)" if any(phase.is_branch for phase in run.phases) else ""
    price = f"{run.price:g} USD {'a rank-hour' if run.machine.is_cpu else 'a GPU-hour'}"
    return (
        f"{duration_text(hours)} on {run.machine.name}, {number_text(run.gpu_hours)} {what}{branches}, "
        f"{run.cost:,.2f} USD at {price} (price= sets another; the table's are assumptions)"
    )


def error_line(run: RunEstimate) -> str:
    """Say what the speed comes from, and how far it can be trusted."""
    if run.speed is not None:
        return f"speed: {run.speed.says}"
    return trust_line(run.machine, _has_lengths_of_fit(run))


def as_plain(run: RunEstimate, largest_blocks: int | None, remarks: tuple[str, ...]) -> dict[str, Any]:
    """Return the estimate as what JSON can hold. Hours are of wall-clock time, sizes in bytes, money in USD."""
    device = dataclasses.asdict(run.machine.device)
    need = need_of(run.config, run.machine, run.microbatch_blocks)
    is_modelled = run.speed is None
    return {
        "ok": True,
        "phases": [_plain_phase(run, phase) for phase in run.phases],
        "parameters": run.parameters,
        "hardware": {"name": run.machine.name, "count": run.machine.count, "device": device},
        "flops": sum(phase.flops for phase in run.phases),
        "gpu_hours_training": run.gpu_hours_training,
        "gpu_hours": run.gpu_hours,
        "hours": run.gpu_hours / run.machine.count,
        "cost": {"usd": run.cost, "usd_per_gpu_hour": run.price},
        "memory": {
            **dataclasses.asdict(need),
            "total": need.total,
            "total_recomputed": need.total_recomputed,
            "usable": run.machine.usable_bytes,
            "microbatch_blocks": run.microbatch_blocks,
            "largest_microbatch_blocks": largest_blocks,
        },
        "storage": {"checkpoint": run.checkpoint_bytes, "at_most": run.disk_bytes},
        "loader": {"tokens_per_s": run.loader_tokens_per_s, "bytes_per_s": run.loader_bytes_per_s},
        "network": {
            "bytes_per_s_needed": max(phase.network_bytes_per_s for phase in run.phases),
            "bytes_per_s_assumed": run.machine.link_gb_s * 1e9,
            "exposed_s_a_step": max(phase.exposed_s for phase in run.phases),
        },
        "model_error": model_errors(run.parameters, _has_lengths_of_fit(run)) if is_modelled else None,
        "extrapolated": is_modelled and is_extrapolated(run.machine),
        "speed": error_line(run),
        "remarks": list(remarks),
    }


def _has_lengths_of_fit(run: RunEstimate) -> bool:
    return has_lengths_of_fit((phase.plan.phase.max_seq_len, phase.data) for phase in run.phases)


def duration_text(hours: float) -> str:
    """Return a duration as people say it: 0.02 -> "1.2 min", 246 -> "10.2 days"."""
    if hours >= 3 * _HOURS_A_YEAR:
        return f"{hours / _HOURS_A_YEAR:,.0f} years"
    if hours >= 48:
        return f"{hours / 24:,.1f} days"
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.1f} min"


def number_text(value: float) -> str:
    """Return a number with the digits that count: 1530, 58.9, 0.026."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def counted(number: int, what: str) -> str:
    """Return a number of things: 1 block, 12 blocks."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _plain_phase(run: RunEstimate, phase: PhaseEstimate) -> dict[str, Any]:
    streams = [{**dataclasses.asdict(each), "epochs": each.epochs} for each in phase.data.streams]
    return {
        "name": phase.plan.name,
        **dataclasses.asdict(phase_row(phase.plan)),
        "is_branch": phase.is_branch,
        "blocks": phase.blocks,
        "batch_levels": [list(level) for level in phase.plan.levels],
        "mean_mask_rate": phase.mask_rate,
        "segments": {
            "mean_tokens": phase.data.segments.mean_tokens,
            "from": phase.data.segments.says,
            "fill": phase.data.fill,
            "fill_is_known": phase.data.fill_is_known,
        },
        "data": streams,
        "flops": phase.flops,
        "flops_a_token": phase.work.flops,
        "attention_flops_a_token": phase.work.attention_flops,
        "tokens_per_s": phase.tokens_per_s,
        "mfu": phase.mfu,
        "step_s": phase.step_s,
        "gpu_hours_training": phase.gpu_hours_training,
        "gpu_hours": phase.gpu_hours,
        "hours": phase.gpu_hours / run.machine.count,
        "cost_usd": phase.gpu_hours * run.price,
    }


def _cost_table(run: RunEstimate) -> Table:
    unit = "rank-h" if run.machine.is_cpu else "GPU-h"
    table = Table(title=f"on {run.machine.name}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("phase", "FLOPs", "tokens/s", "MFU", f"{unit} training", unit, "time", "USD"):
        table.add_column(heading, overflow="fold", justify="left" if heading == "phase" else "right")
    for phase in run.phases:
        table.add_row(
            f"{phase.plan.name} (branch)" if phase.is_branch else phase.plan.name,
            f"{phase.flops:.2e}",
            approximate_tokens(phase.tokens_per_s),
            "" if phase.mfu is None else f"{phase.mfu:.0%}",
            number_text(phase.gpu_hours_training),
            number_text(phase.gpu_hours),
            duration_text(phase.gpu_hours / run.machine.count),
            f"{phase.gpu_hours * run.price:,.2f}",
        )
    return table


def _data_lines(run: RunEstimate) -> Iterator[str]:
    for phase in run.phases:
        streams = ", ".join(
            f"{each.name} {counted(each.needed_blocks, 'block')}, "
            + (f"{each.epochs:.2f} epochs" if each.epochs is not None else f"epochs unknown ({each.why_unknown})")
            for each in phase.data.streams
        )
        yield f"data of {phase.plan.name}: {streams}"
    texts = [
        f"{each.data.segments.mean_tokens:,.0f} tokens on average, {each.data.segments.says}" for each in run.phases
    ]
    for text in dict.fromkeys(texts):
        names = [phase.plan.name for phase, own in zip(run.phases, texts, strict=True) if own == text]
        yield f"segments of {', '.join(names)}: {text}"


def _memory_lines(run: RunEstimate, largest_blocks: int | None) -> Iterator[str]:
    need: MemoryNeed = need_of(run.config, run.machine, run.microbatch_blocks)
    low = f", their {run.config.hardware.precision} copies {gib_text(need.low_weights)}" if need.low_weights else ""
    usable = run.machine.usable_bytes
    of_usable = "" if usable is None else f" of {gib_text(usable)} that may be filled ({USABLE_MEMORY:.0%} assumed)"
    yield (
        f"memory of a rank, {counted(run.microbatch_blocks, 'block')} of {run.config.data.block_tokens} at once: "
        f"{gib_text(need.total)}{of_usable}"
    )
    yield (
        f"  weights {gib_text(need.weights)}{low}, gradients {gib_text(need.gradients)}, moments "
        f"{gib_text(need.moments)}, buckets {gib_text(need.buckets)}, logits {gib_text(need.logits)}, activations "
        f"{gib_text(need.activations)} ({gib_text(need.activations_recomputed)} were layers computed again, which "
        "padless does not)"
    )
    if largest_blocks is not None:
        most = counted(largest_blocks, "block")
        yield f"  largest microbatch that fits: {most}; ranks x microbatch has to divide the batch"


def _network_lines(run: RunEstimate) -> Iterator[str]:
    if run.machine.count == 1:
        yield "network: none, one rank"
        return
    needed, exposed = (
        max(getattr(phase, name) for phase in run.phases) for name in ("network_bytes_per_s", "exposed_s")
    )
    waited = f"{1000 * exposed:.1f} ms of each step are waited for"
    verdict = "hidden behind the backward pass" if exposed == 0 else waited
    far = " between machines" if run.machine.count > GPUS_A_MACHINE and not run.machine.is_cpu else ""
    yield (
        f"network: gradients need {approximate_bytes(needed)}/s a rank, {run.machine.link_gb_s:g} GB/s{far} assumed "
        f"(link_gb_s=): {verdict}"
    )
