"""What a prediction has to know of a device, for GPUs of the table and for the CPU a search runs on.

All constants are here, each with its source; none is fitted to a shape.

- Tiles: the products' output is computed in tiles of 256 x 128, the size that NVIDIA calls most efficient, or smaller
  ones down to 64 x 64, where parallelism is wanting (Matrix Multiplication Background User's Guide, "Dimension
  Quantization Effects"). A tile m x n reuses each operand it fetches; flops a byte grow as m n / (m + n), and a smaller
  tile is given that share of the largest's rate. The guide has the order; the proportion is an assumption.
- Attention: FlashAttention-2 reaches 50 to 73 % of an A100's peak (Dao 2023, abstract). The lower end is taken, since
  heads of 64 are the less efficient. It computes blocks of 128 queries against whole blocks of keys.
- Launches: 20 kernels of 2.9 us each took 3.8 us a kernel when launched one after the other without waiting (NVIDIA,
  "Getting Started with CUDA Graphs", V100). So a kernel costs 0.9 us beyond its work, and no fewer than 3.8 us pass
  between two launches. Kernels of one forward pass are launched without waiting.
"""

from dataclasses import dataclass

from padless.plan.devices import Gpu

ATTENTION_SHARE = 0.5
ATTENTION_BLOCK = 128
_CPU_BLOCK = 64
KERNEL_GAP_S = 0.9e-6
LAUNCH_S = 3.8e-6
_TILES = ((256, 128), (128, 128), (256, 64), (128, 64), (64, 64))


@dataclass(frozen=True)
class Tile:
    """Part of a product's output that one multiprocessor computes at once."""

    rows: int
    columns: int
    share: float  # of the device's rate that it reaches


@dataclass(frozen=True)
class Device:
    """Rates and sizes of one device."""

    name: str
    flops_per_s: float  # of matrix products, all units together
    bandwidth_bytes_per_s: float
    num_units: int  # that compute a tile each: streaming multiprocessors
    tiles: tuple[Tile, ...]
    attention_flops_per_s: float  # of the pairs that it computes
    attention_block: int  # queries of a unit of attention; keys come in as many
    kernel_gap_s: float  # of each kernel, beside its work
    launch_s: float  # least time between two kernels
    element_bytes: int
    memory_bytes: float


def device_of(gpu: Gpu) -> Device:
    """Return a GPU of the table at its data sheet's rates, in half precision."""
    return Device(
        name=gpu.name,
        flops_per_s=1e12 * gpu.peak_tflops,
        bandwidth_bytes_per_s=1e9 * gpu.bandwidth_gb_s,
        num_units=gpu.num_sms,
        tiles=_tiles(),
        attention_flops_per_s=1e12 * gpu.peak_tflops * ATTENTION_SHARE,
        attention_block=ATTENTION_BLOCK,
        kernel_gap_s=KERNEL_GAP_S,
        launch_s=LAUNCH_S,
        element_bytes=2,
        memory_bytes=1e9 * gpu.memory_gb,
    )


def cpu_core(gflops: float, bandwidth_gb_s: float, attention_gflops: float) -> Device:
    """Return one core of this machine from rates that were measured on it, in fp32.

    A core computes products exactly, so nothing is rounded up to tiles, and calls cost nothing beside work. Local
    attention on a CPU takes blocks of half a window (:mod:`padless.attention.local_blocks`).

    Args:
        gflops: matrix products, 10^9 operations a second.
        bandwidth_gb_s: of copies larger than its caches, bytes read and written, 10^9 a second.
        attention_gflops: of the project's own attention, over the allowed pairs.
    """
    return Device(
        name="cpu",
        flops_per_s=1e9 * gflops,
        bandwidth_bytes_per_s=1e9 * bandwidth_gb_s,
        num_units=1,
        tiles=(Tile(1, 1, 1.0),),
        attention_flops_per_s=1e9 * attention_gflops,
        attention_block=_CPU_BLOCK,
        kernel_gap_s=0.0,
        launch_s=0.0,
        element_bytes=4,
        memory_bytes=float("inf"),
    )


def _tiles() -> tuple[Tile, ...]:
    reuse = {(m, n): m * n / (m + n) for m, n in _TILES}
    largest = max(reuse.values())
    sizes = dict.fromkeys([*reuse, *((n, m) for m, n in reuse)])  # either way round
    return tuple(Tile(m, n, m * n / (m + n) / largest) for m, n in sizes)
