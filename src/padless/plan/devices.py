"""What devices can do at best, from data sheets: by the name a driver gives and by the name a plan asks for.

Arithmetic is dense matrix products in bf16 (fp16 where there is no bf16): half of what the sheets print for structured
sparsity. Consumer cards are counted with fp32 accumulation, which is what training uses. A device that is not here
has no known peak, and no share of it is shown.
"""

import re
from dataclasses import dataclass

from padless.config.load import nearest_key
from padless.errors import ConfigError


@dataclass(frozen=True)
class Gpu:
    """One GPU of the data sheets."""

    name: str  # as a plan asks for it
    peak_tflops: float  # dense bf16 (T4: fp16)
    memory_mib: int  # 2^20 bytes, as nvidia-smi reports it (with error correction where the card has it on)
    bandwidth_gb_s: float  # of its memory, 10^9 bytes a second
    num_sms: int  # streaming multiprocessors
    l2_mb: float
    has_bf16: bool
    usd_per_hour: float  # an assumption to be replaced with price=: on-demand prices of one GPU differ 2 to 4 times

    @property
    def memory_bytes(self) -> int:
        """Of its memory."""
        return self.memory_mib * 2**20

    @property
    def memory_gb(self) -> float:
        """10^9 bytes of its memory; the number on the card is less exact."""
        return self.memory_bytes / 1e9


GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("h200", 989.5, 143_771, 4800.0, 132, 50.0, True, 3.80),
        Gpu("h100", 989.5, 81_559, 3350.0, 132, 50.0, True, 2.99),
        Gpu("a100", 312.0, 81_920, 2039.0, 108, 40.0, True, 1.79),
        Gpu("l40s", 362.0, 46_068, 864.0, 142, 96.0, True, 0.99),
        Gpu("l4", 121.0, 23_034, 300.0, 58, 48.0, True, 0.70),
        Gpu("a10", 125.0, 23_028, 600.0, 72, 6.0, True, 0.75),
        Gpu("t4", 65.0, 15_360, 320.0, 40, 4.0, False, 0.35),
        Gpu("rtx3090", 71.0, 24_576, 936.0, 82, 6.0, True, 0.22),
        Gpu("rtx4090", 165.2, 24_564, 1008.0, 128, 72.0, True, 0.40),
    )
}

CPU_CORE = Gpu("cpu", 0.1, 4096, 10.0, 1, 1.0, False, 0.05)
"""One core of a CPU, in fp32: round assumptions (AVX2 at 3 GHz is 96 GFLOP/s), which measuring is to replace."""


@dataclass(frozen=True)
class _Driver:
    """Names that a driver gives to one device: all of ``words`` and, besides brands, none but the ``more``."""

    words: frozenset[str]
    more: frozenset[str]
    peak_tflops: float
    gpu: Gpu | None  # None for what has a data sheet's peak and no row of its own


def _driver(words: str, of: Gpu | float, more: str = "") -> _Driver:
    gpu, peak_tflops = (of, of.peak_tflops) if isinstance(of, Gpu) else (None, of)
    return _Driver(frozenset(words.split()), frozenset(more.split()), peak_tflops, gpu)


_BRANDS = frozenset({"nvidia", "tesla", "geforce"})
_DRIVERS = (
    _driver("h200", GPUS["h200"]),
    _driver("h100", GPUS["h100"], "80gb hbm3"),
    _driver("a100 sxm4 80gb", GPUS["a100"]),
    _driver("l40s", GPUS["l40s"]),
    _driver("l4", GPUS["l4"]),
    _driver("a10", GPUS["a10"]),
    _driver("t4", GPUS["t4"]),
    _driver("rtx 3090", GPUS["rtx3090"]),
    _driver("rtx 4090", GPUS["rtx4090"]),
    _driver("h200 nvl", 835.5),
    _driver("h100 nvl", 835.5),
    _driver("h100 pcie", 756.5),
    _driver("a100 sxm4 40gb", GPUS["a100"].peak_tflops),
    _driver("a100 pcie", GPUS["a100"].peak_tflops, "40gb 80gb"),
    _driver("v100 sxm2", 125.0, "16gb 32gb"),
    _driver("v100 pcie", 112.0, "16gb 32gb"),
)


def gpu_named(name: str) -> Gpu:
    """Return the GPU of the table by the name a plan asks for, such as ``h100`` or ``RTX 4090``.

    Raises:
        ConfigError: it is not in the table.
    """
    key = re.sub(r"[\s_\-]+", "", name).lower()
    if key in GPUS:
        return GPUS[key]
    nearest = nearest_key(key, list(GPUS))
    hint = f"did you mean {nearest}? " if nearest else ""
    raise ConfigError(f"no GPU {name!r} in the table", f"{hint}use one of: {', '.join(GPUS)}")


def device_named(name: str) -> Gpu:
    """Return what a plan counts with: a GPU of the table, or a CPU core for ``cpu``.

    Raises:
        ConfigError: it is not in the table.
    """
    return CPU_CORE if name.strip().lower() == CPU_CORE.name else gpu_named(name)


def gpu_of_driver(device_name: str) -> Gpu | None:
    """Return the GPU of the table that a driver's name, such as ``NVIDIA L40S``, stands for, or None.

    A card of another memory or bus than the table's, such as ``NVIDIA A100-SXM4-40GB``, is not in it.
    """
    found = _of_driver(device_name)
    return None if found is None else found.gpu


def peak_flops(device_name: str) -> float | None:
    """Return the peak of a device in floating-point operations a second, or None where it is not known.

    Args:
        device_name: as the driver gives it, e.g. ``NVIDIA H100 80GB HBM3``.
    """
    found = _of_driver(device_name)
    return None if found is None else 1e12 * found.peak_tflops


def _of_driver(device_name: str) -> _Driver | None:
    words = frozenset(re.split(r"[\s\-]+", device_name.strip().lower())) - _BRANDS
    return next((each for each in _DRIVERS if each.words <= words <= each.words | each.more), None)
