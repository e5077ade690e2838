"""What a GPU could compute at best, by its name: dense bf16 or fp16 matrix products, from its maker's data sheet.

"Dense" is half of what the sheets print for structured sparsity; consumer cards are counted with fp32 accumulation,
which is what training uses. A device that is not here has no known peak, and no share of it is shown.
"""

import re

_TFLOPS: tuple[tuple[frozenset[str], float], ...] = (  # words of the name; the first row whose words all occur counts
    (frozenset({"H200", "NVL"}), 835.5),
    (frozenset({"H200"}), 989.5),
    (frozenset({"H100", "NVL"}), 835.5),
    (frozenset({"H100", "PCIe"}), 756.5),
    (frozenset({"H100"}), 989.5),
    (frozenset({"A100"}), 312.0),
    (frozenset({"L40S"}), 362.0),
    (frozenset({"L4"}), 121.0),
    (frozenset({"A10"}), 125.0),
    (frozenset({"T4"}), 65.0),
    (frozenset({"V100", "SXM2"}), 125.0),
    (frozenset({"V100", "PCIE"}), 112.0),
    (frozenset({"RTX", "3090"}), 71.0),
    (frozenset({"RTX", "4090"}), 165.2),
)
_OTHER_MODELS = frozenset({"Ti", "D", "Laptop", "MIG"})  # words that make another device, or part of one, of these


def peak_flops(device_name: str) -> float | None:
    """Return the peak of a device in floating-point operations a second, or None where it is not known.

    Args:
        device_name: as the driver gives it, e.g. ``NVIDIA H100 80GB HBM3``.
    """
    words = set(re.split(r"[\s\-]+", device_name))
    if words & _OTHER_MODELS:
        return None
    return next((1e12 * tflops for needed, tflops in _TFLOPS if needed <= words), None)
