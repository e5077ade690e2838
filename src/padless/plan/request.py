"""What ``padless plan`` is asked: its own settings apart from Hydra's, and the configuration and machine they give."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from padless.config.check import check
from padless.config.compose import YAML_FOLDER, compose
from padless.config.load import nearest_key, unknown_word
from padless.config.schema import Config
from padless.data.picture_file import picture_file
from padless.errors import ConfigError
from padless.plan.devices import CPU_CORE, GPUS, Gpu
from padless.plan.efficiency import seconds_a_token
from padless.plan.estimate import all_phases, work_of_phase
from padless.plan.hardware import Machine, machine_of, machine_of_group, parse_machine
from padless.plan.lengths import FULL, LAWS
from padless.plan.memory import gib_text, largest_microbatch, need_of
from padless.plan.streams import data_of_phase
from padless.units import format_tokens

OWN = ("gpus", "price", "out", "lengths", "link_gb_s")
_DAY_S = 86_400.0
_MICROBATCH = "hardware.microbatch_blocks="


@dataclass(frozen=True)
class Request:
    """The arguments of a plan, taken apart.

    Args:
        overrides: for Hydra.
        gpus: ``8xh100``, or None.
        price: USD a GPU-hour, or None for the table's.
        out: the picture's file, or None for no picture.
        lengths: an assumption about lengths, or None.
        link_gb_s: 10^9 bytes a second between ranks, or None for the table's.
        fit: ``8xh100, 3 days``, or None.
        measure: probe this machine.
    """

    overrides: tuple[str, ...]
    gpus: str | None = None
    price: float | None = None
    out: Path | None = None
    lengths: str | None = None
    link_gb_s: float | None = None
    fit: str | None = None
    measure: bool = False


@dataclass(frozen=True)
class Ready:
    """A checked configuration on a machine."""

    config: Config
    machine: Machine
    microbatch_blocks: int
    largest_blocks: int | None  # that fit the memory, whether or not they divide the batch
    remarks: tuple[str, ...]


def parse_request(arguments: Sequence[str]) -> Request:
    """Return the arguments of ``padless plan`` taken apart.

    Raises:
        ConfigError: a value cannot be read, or hardware is named twice.
    """
    own: dict[str, str] = {}
    overrides: list[str] = []
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if key in ("--fit", "--measure") or key in OWN:
            if not separator or not value:
                raise ConfigError(f"{key} has no value", f"write {key}=...")
            if key.lstrip("-") in own:
                raise ConfigError(f"{key} is given twice", "give it once")
            own[key.lstrip("-")] = value
        elif key == "hardware" and not (YAML_FOLDER / "hardware" / f"{value}.yaml").exists() and value[:1].isdigit():
            if "gpus" in own:
                raise _named_twice(own["gpus"], argument)
            own["gpus"] = value  # any count of any GPU of the table, without a file for it
        else:
            _require_not_nearly_own(argument)
            overrides.append(argument)
    named = [each for each in overrides if each.startswith("hardware=")]
    if "gpus" in own and named:
        raise _named_twice(own["gpus"], named[0])
    return Request(
        tuple(overrides),
        own.get("gpus"),
        _number("price", own.get("price")),
        picture_file(own["out"], "write e.g. out=plan.png") if "out" in own else None,
        _lengths(own.get("lengths")),
        _number("link_gb_s", own.get("link_gb_s")),
        own.get("fit"),
        "measure" in own,
    )


def _named_twice(gpus: str, other: str) -> ConfigError:
    return ConfigError(f"gpus={gpus} and {other} both name the hardware", "leave one of them out")


def _require_not_nearly_own(argument: str) -> None:
    """Refuse ``gpu=8xh100`` as what it is, a setting of the plan misspelt; what is nearer to Hydra's is left to it."""
    key = argument.partition("=")[0]
    hydras = [*(each.name for each in dataclasses.fields(Config)), *(path.name for path in YAML_FOLDER.iterdir())]
    if not key.isidentifier() or key in hydras:
        return
    if nearest_key(key, [*OWN, *hydras]) in OWN:
        raise unknown_word(argument, OWN, f"a plan's own settings are {', '.join(OWN)}")


def named_machine(request: Request, config: Config) -> Machine | None:
    """Return the machine that ``gpus=`` or ``hardware=`` names, or None.

    Raises:
        ConfigError: it cannot be read, or its device is not in the table.
    """
    if request.gpus is not None:
        return parse_machine(request.gpus)
    group = next((each.partition("=")[2] for each in request.overrides if each.startswith("hardware=")), "auto")
    return machine_of_group(group, config.hardware)


def prepare(request: Request, machine: Machine | None = None) -> Ready:
    """Return configuration, machine and microbatch, checked as ``padless check`` does for so many ranks.

    Args:
        request: what was asked.
        machine: on which; None takes the one that is named, or assumes one and says so.

    Raises:
        ConfigError: a setting is wrong, the batch cannot be cut for so many ranks, or nothing fits the memory.
    """
    config = compose(request.overrides)
    _require_all_branches(config)
    if machine is None:
        machine = named_machine(request, config) or _assume_machine(config, request.lengths)
    if request.link_gb_s is not None:
        machine = machine_of(machine.device, machine.count, machine.remark, request.link_gb_s)
    config = _on_machine(config, machine, request)
    remarks = [] if machine.remark is None else [machine.remark]
    if config.run.stop_after_tokens is not None:
        remarks.append(
            f"run.stop_after_tokens={format_tokens(config.run.stop_after_tokens)} is not counted: all figures are of "
            "whole phases"
        )
    largest = largest_microbatch(config, machine)
    asked = any(each.startswith(_MICROBATCH) for each in request.overrides)
    if asked:
        blocks = config.hardware.microbatch_blocks
        _require_room(config, machine, largest)
    else:
        blocks = _best_microbatch(config, machine, largest)
        if request.gpus is None and machine.remark is None and blocks != config.hardware.microbatch_blocks:
            remarks.append(
                f"planned with hardware.microbatch_blocks={blocks}; the file's "
                f"{config.hardware.microbatch_blocks} does not divide the batches or does not fit"
            )
    config = dataclasses.replace(config, hardware=dataclasses.replace(config.hardware, microbatch_blocks=blocks))
    check(config, machine.count)
    return Ready(config, machine, blocks, largest, tuple(remarks))


def _number(key: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0) and not (key == "price" and number == 0):
        raise ConfigError(f"{key}={text} is not a positive number", f"write e.g. {key}=2.5")
    return number


def _lengths(text: str | None) -> str | None:
    known = [*LAWS, FULL]
    if text is not None and text not in known:
        nearest = nearest_key(text, known)
        hint = f"did you mean lengths={nearest}? " if nearest else ""
        raise ConfigError(f"lengths={text} is not an assumption about lengths", f"{hint}use one of: {', '.join(known)}")
    return text


def _assume_machine(config: Config, lengths: str | None) -> Machine:
    """Return a CPU core where that takes less than a day, else 8 H100, or as many as the batch can be cut for."""
    seconds = 0.0
    for plan, _ in all_phases(config):
        tokens = plan.actual_end_tokens - plan.start_tokens
        data = data_of_phase(config, plan.phase, tokens // plan.block_tokens, lengths)
        work, _ = work_of_phase(config, plan, data)
        seconds += tokens * seconds_a_token(work, CPU_CORE)
    common = common_quantum(config)
    most = next(count for count in (8, 4, 2, 1) if common % count == 0)
    device, count = (CPU_CORE, 1) if seconds < _DAY_S else (GPUS["h100"], most)
    count = config.hardware.world_size or count
    remark = f"no hardware was named: {count}x{device.name} assumed; name yours with e.g. gpus=4xl40s"
    return machine_of(device, count, remark)


def _require_all_branches(config: Config) -> None:
    if config.run.branch is not None:
        raise ConfigError(
            f"run.branch={config.run.branch}: a plan is of the phases and of all branches",
            "leave it out: each branch has a line of its own",
        )


def _on_machine(config: Config, machine: Machine, request: Request) -> Config:
    """Return the configuration with the machine's ranks and a precision that it computes in."""
    hardware = config.hardware
    precision = hardware.precision
    _require_same_count(hardware.world_size, machine, request)
    if not machine.is_cpu and not machine.device.has_bf16:
        _require_no_ampere(config, machine.device)
    if machine.is_cpu:
        precision = "fp32" if precision == "auto" else precision
    elif precision == "fp32" and any(each.startswith("hardware.precision=") for each in request.overrides):
        raise ConfigError(
            f"hardware.precision=fp32: the table has no fp32 rate of {machine.device.name}",
            "leave it out, or use padless plan --measure on that machine",
        )
    elif precision in ("fp32", "auto"):
        precision = _half(machine.device)
    hardware = dataclasses.replace(
        hardware, device="cpu" if machine.is_cpu else "gpu", world_size=machine.count, precision=precision
    )
    return dataclasses.replace(config, hardware=hardware)


def _require_same_count(world_size: int | None, machine: Machine, request: Request) -> None:
    told = any(each.lstrip("+").startswith("hardware.world_size=") for each in request.overrides)
    if request.gpus is not None and told and world_size not in (None, machine.count):
        raise ConfigError(
            f"gpus={request.gpus} has {machine.count} ranks and hardware.world_size={world_size} has others",
            f"leave one of them out, or write hardware.world_size={machine.count}",
        )


def _require_no_ampere(config: Config, gpu: Gpu) -> None:
    """Refuse what a GPU before Ampere, which has no bf16, cannot run."""
    if config.hardware.precision == "bf16":
        raise ConfigError(f"hardware.precision=bf16: {gpu.name} has no bf16", "use hardware.precision=fp16 or auto")
    if config.hardware.attention_backend == "flash":
        raise ConfigError(
            f"hardware.attention_backend=flash: FlashAttention 2 needs Ampere or newer, {gpu.name} is older",
            "use hardware.attention_backend=auto",
        )


def _half(gpu: Gpu) -> str:
    return "bf16" if gpu.has_bf16 else "fp16"


def _require_room(config: Config, machine: Machine, largest: int | None) -> None:
    blocks = config.hardware.microbatch_blocks
    if largest is None or blocks <= largest:
        return
    need = need_of(config, machine, blocks)
    fitting = divisors_that_fit(config, machine, largest)
    nearest = f"hardware.microbatch_blocks={fitting[-1]} fits" if fitting else f"{largest} fit"
    raise ConfigError(
        f"hardware.microbatch_blocks={blocks} needs {gib_text(need.total)}, one {machine.device.name} has "
        f"{gib_text(machine.usable_bytes or 0)} for it",
        f"{nearest}, or take a GPU with more memory",
    )


def _best_microbatch(config: Config, machine: Machine, largest: int | None) -> int:
    """Return the file's microbatch where it divides and fits, else the largest that does; 1 where none divides."""
    fitting = divisors_that_fit(config, machine, largest)
    told = config.hardware.microbatch_blocks
    if not fitting:
        return 1
    return told if told in fitting and told > 1 else (1 if machine.is_cpu else fitting[-1])


def divisors_that_fit(config: Config, machine: Machine, largest: int | None) -> list[int]:
    """Return the microbatches, in blocks, that divide every batch of so many ranks and are at most ``largest``."""
    common = common_quantum(config)
    if common % machine.count:
        return []
    each = common // machine.count
    most = each if largest is None else min(each, largest)
    return [blocks for blocks in range(1, most + 1) if each % blocks == 0]


def common_quantum(config: Config) -> int:
    """Return what divides the batches of all phases."""
    return math.gcd(*(phase.batch.quantum_blocks for phase in (*config.phases.values(), *config.branches.values())))
