"""Hours, cost, memory, disk and rates of a run, phase by phase, from its configuration and a machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from padless.config.branches import branch_config
from padless.config.schema import Config, PhaseConfig
from padless.model.count import count_parameters
from padless.plan.devices import GPUS
from padless.plan.efficiency import Work, seconds_a_token, work_a_token
from padless.plan.hardware import Machine
from padless.plan.memory import CHECKPOINT_BYTES_A_PARAMETER
from padless.plan.streams import PhaseData, data_of_phase
from padless.plan.trust import is_extrapolated
from padless.schedule.masking_rate import mask_rate_at
from padless.schedule.phases import PhasePlan, plan_phases

OTHER_GPU_HOURS = 35.0
"""Evaluation, checkpoints and starts of one phase of the published runs, on 8 H100: their totals less training are 24,
29 and 32 GPU-hours for base, 39, 44 and 50 for large [arXiv 2412.13663, table 3]. They do not grow with the tokens."""
OTHER_SHARE_AT_MOST = 0.5  # of training: 32 of 60 GPU-hours in the shortest published phase

_OPTIMIZER_BYTES = 32  # a parameter: weight, gradient and moments read, weight and moments written, the norm's read
_GRADIENT_BYTES = 4
_BACKWARD_SHARE = 2 / 3
_RATE_SAMPLES = 200


@dataclass(frozen=True)
class Speed:
    """What was measured in place of the efficiency model.

    Args:
        flops_per_s: of one device in forward and backward pass, by phase.
        optimizer_s_per_parameter: of one step of the optimizer.
        says: on what, and how.
    """

    flops_per_s: Mapping[str, float]
    optimizer_s_per_parameter: float
    says: str


@dataclass(frozen=True)
class PhaseEstimate:
    """One phase. GPU-hours are hours x devices, whatever the device is."""

    plan: PhasePlan
    is_branch: bool
    tokens: int  # nominal, that its steps consume
    blocks: int
    mask_rate: float  # mean over the phase
    data: PhaseData
    work: Work  # a token
    flops: float  # necessary ones of all real tokens
    seconds_a_token: float  # of one device, in forward and backward pass
    tokens_per_s: float  # of all ranks: nominal tokens over the hours of training, as MFU counts
    step_s: float  # of a step with the phase's last batch
    gpu_hours_training: float
    gpu_hours_other: float
    most_gpu_hours_other: float  # were the phase long
    exposed_s: float  # of a step, waiting for gradients of other ranks
    network_bytes_per_s: float  # a rank sends, to hide all of it behind the last microbatch's backward pass
    mfu: float | None  # of the device's peak; None for a CPU, whose peak is not known

    @property
    def gpu_hours(self) -> float:
        """Training and the rest."""
        return self.gpu_hours_training + self.gpu_hours_other


@dataclass(frozen=True)
class RunEstimate:
    """A run on a machine."""

    config: Config
    machine: Machine
    microbatch_blocks: int
    price: float  # USD a GPU-hour
    phases: tuple[PhaseEstimate, ...]
    parameters: int
    checkpoint_bytes: int  # of one
    disk_bytes: int  # at most, with retention
    loader_tokens_per_s: float  # of the fastest phase, all ranks
    loader_bytes_per_s: float
    speed: Speed | None

    @property
    def gpu_hours_training(self) -> float:
        """Of all phases."""
        return sum(phase.gpu_hours_training for phase in self.phases)

    @property
    def gpu_hours(self) -> float:
        """Of all phases, with the rest."""
        return sum(phase.gpu_hours for phase in self.phases)

    @property
    def cost(self) -> float:
        """USD."""
        return self.gpu_hours * self.price


def estimate(
    config: Config,
    machine: Machine,
    microbatch_blocks: int,
    price: float,
    lengths: str | None = None,
    speed: Speed | None = None,
) -> RunEstimate:
    """Return what a run takes.

    Args:
        config: a checked configuration.
        machine: what it runs on.
        microbatch_blocks: blocks a rank computes at once.
        price: USD a GPU-hour.
        lengths: an assumption about lengths, see :func:`padless.plan.lengths.assume_segments`.
        speed: measured; None takes the efficiency model.

    Raises:
        DataError: a manifest is there and cannot be read.
    """
    parameters = count_parameters(config.model).total
    phases = tuple(
        _phase(config, plan, is_branch, machine, microbatch_blocks, lengths, speed)
        for plan, is_branch in all_phases(config)
    )
    checkpoint_bytes = CHECKPOINT_BYTES_A_PARAMETER * parameters
    tokens_per_s = max(phase.tokens_per_s for phase in phases)
    return RunEstimate(
        config,
        machine,
        microbatch_blocks,
        price,
        phases,
        parameters,
        checkpoint_bytes,
        checkpoint_bytes * checkpoints_on_disk(config),
        tokens_per_s,
        tokens_per_s * token_bytes(config.model.vocab_size),
        speed,
    )


def all_phases(config: Config) -> list[tuple[PhasePlan, bool]]:
    """Return the phases in order, then the branches that each start at their end, and whether each is one."""
    found = [(plan, False) for plan in plan_phases(config)]
    return found + [(plan_phases(branch_config(config, name, "the trunk"))[-1], True) for name in config.branches]


def work_of_phase(config: Config, plan: PhasePlan, data: PhaseData) -> tuple[Work, float]:
    """Return the work a real token, and the phase's mean mask rate."""
    rate = mean_mask_rate(plan.phase)
    is_fp32 = config.hardware.precision == "fp32"
    return work_a_token(config.model, data.segments, rate, is_fp32), rate


def mean_mask_rate(phase: PhaseConfig) -> float:
    """Return the mask rate's mean over a phase."""
    places = [(2 * number + 1) * phase.tokens // (2 * _RATE_SAMPLES) for number in range(_RATE_SAMPLES)]
    return sum(mask_rate_at(phase.masking, phase.tokens, place) for place in places) / _RATE_SAMPLES


def other_gpu_hours(gpu_hours_training: float, most: float) -> float:
    """Return the GPU-hours of evaluation and the rest that come on top of a phase's training.

    Args:
        gpu_hours_training: of the phase.
        most: of a long phase on this device.
    """
    return min(most, OTHER_SHARE_AT_MOST * gpu_hours_training)


def most_other_gpu_hours(machine: Machine, work: Work, token_s: float) -> float:
    """Return the published hours, longer by as much as a token of training is on the device; 0 for a CPU: unknown."""
    if machine.is_cpu:
        return 0.0
    if not is_extrapolated(machine):
        return OTHER_GPU_HOURS
    return OTHER_GPU_HOURS * token_s / seconds_a_token(work, GPUS["h100"])


def token_bytes(vocab_size: int) -> int:
    """Return the bytes of a token on disk."""
    return 2 if vocab_size <= 2**16 else 4


def checkpoints_on_disk(config: Config) -> int:
    """Return how many checkpoints there are at most at once: of all runs, and the one being written.

    The phases are one run and each branch is one of its own; retention is a run's.
    """
    plans = all_phases(config)
    runs = [[plan.phase for plan, is_branch in plans if not is_branch]]
    runs += [[plan.phase] for plan, is_branch in plans if is_branch]
    return sum(_checkpoints_of_run(phases, config.run.keep_newest_checkpoints) for phases in runs) + 1


def _checkpoints_of_run(phases: Sequence[PhaseConfig], newest: int | None) -> int:
    """Return what a run that is over leaves: all saves, or with retention kept ones, ends of phases and the newest."""
    saves = sum(max(1, -(-phase.tokens // phase.save_every_tokens)) for phase in phases)
    if newest is None:
        return saves
    kept = sum(phase.tokens // phase.keep_every_tokens for phase in phases if phase.keep_every_tokens)
    return min(saves, kept + len(phases) + newest)


def exposed_seconds(parameters: int, machine: Machine, backward_s: float) -> float:
    """Return how long a step waits for gradients once the last microbatch's backward pass is done.

    Args:
        parameters: of the model; gradients are fp32.
        machine: a ring over its ranks.
        backward_s: of one microbatch, behind which sending hides.
    """
    return max(0.0, ring_bytes(parameters, machine.count) / (machine.link_gb_s * 1e9) - backward_s)


def ring_bytes(parameters: int, num_ranks: int) -> float:
    """Return what a rank sends in a step: a ring's two passes over all gradients."""
    return _GRADIENT_BYTES * parameters * 2 * (num_ranks - 1) / num_ranks


def _phase(
    config: Config,
    plan: PhasePlan,
    is_branch: bool,
    machine: Machine,
    microbatch_blocks: int,
    lengths: str | None,
    speed: Speed | None,
) -> PhaseEstimate:
    tokens = plan.actual_end_tokens - plan.start_tokens
    blocks = tokens // plan.block_tokens
    data = data_of_phase(config, plan.phase, blocks, lengths)
    work, rate = work_of_phase(config, plan, data)
    parameters = count_parameters(config.model).total
    if speed is None:
        token_s = seconds_a_token(work, machine.device)
        optimizer_s = _OPTIMIZER_BYTES * parameters / (machine.device.bandwidth_gb_s * 1e9)
    else:
        token_s = work.flops / speed.flops_per_s[plan.name]
        optimizer_s = speed.optimizer_s_per_parameter * parameters
    backward_s = _BACKWARD_SHARE * token_s * microbatch_blocks * plan.block_tokens
    exposed_s = exposed_seconds(parameters, machine, backward_s)
    overhead_s = optimizer_s + exposed_s
    seconds = tokens / machine.count * token_s + plan.steps_in_phase * overhead_s
    training = seconds * machine.count / 3600
    most_other = most_other_gpu_hours(machine, work, token_s)
    flops = work.flops * tokens * data.fill
    last_batch_tokens = plan.levels[-1][1] * plan.block_tokens
    return PhaseEstimate(
        plan,
        is_branch,
        tokens,
        blocks,
        rate,
        data,
        work,
        flops,
        token_s,
        tokens / seconds,
        last_batch_tokens / machine.count * token_s + overhead_s,
        training,
        other_gpu_hours(training, most_other),
        most_other,
        exposed_s,
        ring_bytes(parameters, machine.count) / backward_s,
        None if machine.is_cpu else flops / (seconds * machine.count) / (machine.device.peak_tflops * 1e12),
    )
