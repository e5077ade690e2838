"""How far the efficiency model can be trusted: residual of its fit, error on runs it was not fitted to, and where."""

from collections.abc import Iterable

from padless.plan.efficiency import FREE_CONSTANTS, LARGEST_ERROR
from padless.plan.hardware import Machine
from padless.plan.lengths import assume_segments
from padless.plan.streams import PhaseData

OTHERS_ERROR, SMALL_ERROR = 0.16, 0.60
"""Largest errors for Ettin's runs, which took no part in the fit, of 68M parameters and more and of fewer; a test holds
them to the published hours (:mod:`padless.plan.calibration`)."""
SMALL_PARAMETERS = 60_000_000

_CALIBRATED_ON = "h100"
_OTHERS = (
    "Ettin's published hours, which it was not fitted to, are missed by -16% (1B), +7% (400M), -16% (68M); below that "
    "it promises far too little time: -49% (32M), -60% (17M)"
)


def model_errors(parameters: int, has_lengths_of_fit: bool) -> dict[str, float] | None:
    """Return the errors that are known for a model of so many parameters, as shares; None where lengths differ."""
    if not has_lengths_of_fit:
        return None
    return {"fitted": LARGEST_ERROR, "others": SMALL_ERROR if parameters < SMALL_PARAMETERS else OTHERS_ERROR}


def is_extrapolated(machine: Machine) -> bool:
    """Return whether the machine's device is another than the one that the constants were fitted on."""
    return machine.device.name != _CALIBRATED_ON


def has_lengths_of_fit(data: Iterable[tuple[int, PhaseData]]) -> bool:
    """Return whether segments are assumed as they were in the fit.

    Args:
        data: of each phase, its ``max_seq_len`` and what it reads.
    """
    return all(each.segments == assume_segments(cap) for cap, each in data)


def trust_line(machine: Machine, with_lengths_of_fit: bool) -> str:
    """Say what the speed comes from, and how far it can be trusted on a machine."""
    stated = f"speed: a model with {FREE_CONSTANTS} fitted constants"
    if machine.is_cpu:
        return f"{stated}; for a CPU it is a guess: measure with --measure"
    if with_lengths_of_fit:
        stated += (
            f"; the fit's own residual is {LARGEST_ERROR:.0%} (six published phases of ModernBERT on 8 H100). {_OTHERS}"
        )
    else:
        stated += "; its errors are known for the lengths assumed in the fit only, and these are others"
    return f"{stated}; extrapolated to {machine.device.name}" if is_extrapolated(machine) else stated
