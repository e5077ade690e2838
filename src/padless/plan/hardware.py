"""The machine that a plan is for: how many of which device, and how they are connected."""

import re
from dataclasses import dataclass

from padless.config.schema import HardwareConfig
from padless.errors import ConfigError
from padless.plan.devices import CPU_CORE, GPUS, Gpu, device_named

GPUS_A_MACHINE = 8

_LINK_GB_S = {"h200": 450.0, "h100": 450.0, "a100": 300.0, "t4": 16.0, "cpu": 10.0}
_PCIE_4_GB_S = 32.0
_BETWEEN_MACHINES_GB_S = 50.0

_MACHINE = re.compile(r"\s*(?:(\d+)\s*[xX×]\s*)?(?:(\d+)\s*[xX×]\s*)?([A-Za-z][\w .-]*?)\s*")
_TURNED = re.compile(r"\s*(?P<name>[A-Za-z][\w .-]*?)\s*[xX×*]\s*(?P<count>\d+)\s*")  # h100x8
_WITHOUT_X = re.compile(r"\s*(?P<count>\d+)[\s*]*(?P<name>[A-Za-z][\w .-]*?)\s*")  # 8 h100
USABLE_MEMORY = 0.92
"""Of what the driver reports: an assumption, not measured. The rest is for the CUDA context, NCCL's buffers and gaps
that the allocator leaves."""


@dataclass(frozen=True)
class Machine:
    """Devices of one kind.

    Args:
        device: of the table, or a CPU core.
        count: how many; each is a rank.
        link_gb_s: 10^9 bytes a second that a rank sends to others, from data sheets: NVLink of the SXM boards, PCIe 4
            x16 (T4: 3), and 400 Gb/s a GPU between machines of 8.
        remark: what had to be assumed, or None.
    """

    device: Gpu
    count: int
    link_gb_s: float
    remark: str | None = None

    @property
    def is_cpu(self) -> bool:
        """Whether a rank is a CPU core."""
        return self.device.name == CPU_CORE.name

    @property
    def name(self) -> str:
        """As it is written: 8xh100."""
        return f"{self.count}x{self.device.name}"

    @property
    def usable_bytes(self) -> float | None:
        """Memory of a device that a run may fill (the rest: the driver's, and gaps); None for a CPU core."""
        return None if self.is_cpu else USABLE_MEMORY * self.device.memory_bytes


def machine_of(device: Gpu, count: int, remark: str | None = None, link_gb_s: float | None = None) -> Machine:
    """Return ``count`` devices with the link of their kind, or the one given.

    Raises:
        ConfigError: no device at all.
    """
    if count < 1:
        raise ConfigError(f"{count} x {device.name} is no hardware", f"write at least 1x{device.name}")
    link = _LINK_GB_S.get(device.name, _PCIE_4_GB_S)
    if count > GPUS_A_MACHINE and device.name != CPU_CORE.name:
        link = min(link, _BETWEEN_MACHINES_GB_S)
    return Machine(device, count, link_gb_s or link, remark)


def parse_machine(text: str) -> Machine:
    """Return the machine that ``8xh100``, ``2x8xh100``, ``h100`` or ``4 x RTX 4090`` writes.

    Raises:
        ConfigError: it cannot be read, or the device is not in the table.
    """
    found = _MACHINE.fullmatch(text)
    _hint_at_order(text)
    if found is None:
        raise ConfigError(f"{text!r} is no number of GPUs", f"write e.g. 8xh100, with one of: {', '.join(GPUS)}")
    counts = [int(number) for number in found.groups()[:2] if number is not None]
    count = counts[0] * counts[1] if len(counts) == 2 else (counts[0] if counts else 1)
    return machine_of(device_named(found.group(3)), count)


def _hint_at_order(text: str) -> None:
    for pattern in (_TURNED, _WITHOUT_X):
        found = pattern.fullmatch(text)
        name = "" if found is None else re.sub(r"[\s_\-]+", "", found["name"]).lower()
        if found is not None and name in (*GPUS, CPU_CORE.name):
            right = f"{found['count']}x{name}"
            raise ConfigError(f"{text!r} is not written as a count, an x and a GPU", f"did you mean {right}?")


def machine_of_group(group: str, hardware: HardwareConfig) -> Machine | None:
    """Return the machine that a file of the group ``hardware`` stands for, or None where it names none.

    Args:
        group: name of the file, such as ``8xh100`` or ``cpu``.
        hardware: what is in it.
    """
    if hardware.device == "cpu":
        return machine_of(CPU_CORE, hardware.world_size or 1)
    found = _MACHINE.fullmatch(group)
    if found is not None and found.group(3).lower() in GPUS:
        machine = parse_machine(group)
        return machine_of(machine.device, hardware.world_size or machine.count)
    if hardware.device == "gpu":
        remark = "the hardware named no GPU: an RTX 4090 is assumed; name yours with e.g. gpus=1xa10"
        return machine_of(GPUS["rtx4090"], hardware.world_size or 1, remark)
    return None
