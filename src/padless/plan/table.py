"""What a run will do, phase by phase, before it does it: rows from the configuration, and the table people read."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from padless.config.branches import branch_config
from padless.config.schema import Config, LrConfig, MaskingConfig
from padless.schedule.phases import PhasePlan, plan_phases
from padless.units import approximate_tokens, format_tokens

_SHAPE_WORDS = {
    "constant": "flat",
    "linear": "linear",
    "cosine": "cosine",
    "one_minus_sqrt": "1-sqrt",
    "warmup_stable_decay": "flat, 1-sqrt",
}


@dataclass(frozen=True)
class PhaseRow:
    """One phase of the plan. Tokens are nominal, batches global."""

    phase: str
    tokens: int  # that its steps consume: from the previous phase's actual end to its own
    end_tokens: int  # nominal end on the run's clock
    steps: int
    first_batch_blocks: int
    last_batch_blocks: int
    last_batch_tokens: int
    warmup_levels: int
    max_seq_len: int
    lr_shape: str
    lr_peak: float
    lr_warmup_tokens: int
    lr_end: float  # at the phase's end
    weight_decay: float
    mask_rate: float
    mask_end_rate: float
    global_theta: float
    local_theta: float
    streams: dict[str, float]  # shares, summing to 1


def plan_rows(config: Config) -> tuple[PhaseRow, ...]:
    """Return one row for each phase, in order.

    Raises:
        ConfigError: a batch size is not a multiple of its quantum.
    """
    return tuple(phase_row(plan) for plan in plan_phases(config))


def branch_rows(config: Config) -> tuple[PhaseRow, ...]:
    """Return one row for each branch, each from where the last phase ends.

    Raises:
        ConfigError: a batch size is not a multiple of its quantum.
    """
    return tuple(plan_rows(branch_config(config, name, "the trunk"))[-1] for name in config.branches)


def print_plan(config: Config, console: Console) -> None:
    """Print the plan of ``config``: a table with one line a phase and a branch, and a line with the run's totals."""
    rows, branches = plan_rows(config), branch_rows(config)
    table = Table(title=f"{config.run.name}: the plan", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("phase", "tokens", "steps", "batch", "len", "LR", "mask", "theta", "streams"):
        table.add_column(heading, overflow="fold")
    for row in (*rows, *branches):
        phase = config.branches.get(row.phase) or config.phases[row.phase]
        table.add_row(
            f"branch\n{row.phase}" if row.phase in config.branches else row.phase,
            approximate_tokens(row.tokens),
            f"{row.steps:,}",
            _batch_text(row),
            str(row.max_seq_len),
            _lr_text(phase.lr),
            _mask_text(phase.masking),
            f"{approximate_tokens(row.global_theta)}/{approximate_tokens(row.local_theta)}",
            "\n".join(f"{stream} {share:.0%}" for stream, share in row.streams.items()),
        )
    console.print(table)
    console.print(_totals_text(config, rows), markup=False, highlight=False, soft_wrap=True)
    if branches:
        console.print(_branches_text(rows, branches), markup=False, highlight=False, soft_wrap=True)


def phase_row(plan: PhasePlan) -> PhaseRow:
    """Return the row of one phase."""
    phase = plan.phase
    total_share = sum(phase.streams.values())
    last = plan.levels[-1][1]
    return PhaseRow(
        phase=plan.name,
        tokens=plan.actual_end_tokens - plan.start_tokens,
        end_tokens=plan.end_tokens,
        steps=plan.steps_in_phase,
        first_batch_blocks=plan.levels[0][1],
        last_batch_blocks=last,
        last_batch_tokens=last * plan.block_tokens,
        warmup_levels=len(plan.levels) - 1,
        max_seq_len=phase.max_seq_len,
        lr_shape=phase.lr.shape,
        lr_peak=phase.lr.peak,
        lr_warmup_tokens=phase.lr.warmup_tokens,
        lr_end=phase.lr.peak * phase.lr.floor,
        weight_decay=phase.weight_decay,
        mask_rate=phase.masking.rate,
        mask_end_rate=phase.masking.rate if phase.masking.end_rate is None else phase.masking.end_rate,
        global_theta=phase.rope.global_theta,
        local_theta=phase.rope.local_theta,
        streams={name: share / total_share for name, share in phase.streams.items()},
    )


def _batch_text(row: PhaseRow) -> str:
    ramp = f"{row.first_batch_blocks} to " if row.warmup_levels else ""
    return f"{ramp}{row.last_batch_blocks}"


def _lr_text(lr: LrConfig) -> str:
    warmup = f"\nwarmup {format_tokens(lr.warmup_tokens)}" if lr.warmup_tokens else ""
    end = "" if lr.shape == "constant" else f"\nto {_short(lr.peak * lr.floor)}"
    return f"{_short(lr.peak)} {_SHAPE_WORDS[lr.shape]}{end}{warmup}"


def _short(rate: float) -> str:
    """Return a learning rate to three digits: 0.0008 -> "8e-4"."""
    digits, _, exponent = f"{rate:.2e}".partition("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}" if rate else "0"


def _mask_text(masking: MaskingConfig) -> str:
    end = "" if masking.end_rate is None else f" to {masking.end_rate:g}"
    return f"{masking.rate:g}{end}"


def _totals_text(config: Config, rows: tuple[PhaseRow, ...]) -> str:
    tokens, steps = sum(row.tokens for row in rows), sum(row.steps for row in rows)
    stop = config.run.stop_after_tokens
    early = "" if stop is None else f", stopping early at {format_tokens(stop)}"
    blocks = f"batches in blocks of {config.data.block_tokens} tokens, all ranks together"
    return f"{approximate_tokens(tokens)} tokens in {steps:,} steps; {blocks}{early}"


def _branches_text(rows: tuple[PhaseRow, ...], branches: tuple[PhaseRow, ...]) -> str:
    tokens, steps = sum(row.tokens for row in branches), sum(row.steps for row in branches)
    begin = sum(row.tokens for row in rows)
    what = "1 branch" if len(branches) == 1 else f"{len(branches)} branches, each"
    more = f"{approximate_tokens(tokens)} tokens in {steps:,} steps more"
    return f"then {what} from {approximate_tokens(begin)}: {more}"
