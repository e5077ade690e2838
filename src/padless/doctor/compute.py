"""The GPU, its precision, and the attention kernel that a run would choose, tried on a few tokens."""

import importlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.version

from padless.attention import reference
from padless.attention.api import SegmentLayout
from padless.attention.select import choose_backend, get_backend
from padless.config.schema import Config, HardwareConfig
from padless.doctor.finding import Finding, mend, note, ok, readable_bytes
from padless.doctor.probe import look_at_loopback, start_loopback
from padless.model.compiler import choose_compile
from padless.model.count import count_parameters

_STATE_BYTES = 16  # a parameter: weight, gradient and two moments, fp32
_BUSY_SHARE = 0.1
_NCCL_REMEDY = (
    "see why with NCCL_DEBUG=INFO; a driver older than torch's CUDA and a small /dev/shm are the usual causes"
)
_LENGTHS = (40, 1, 23)
# Rounding of sums of 40 values of size 1.
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}


def visible_gpus(hardware: HardwareConfig) -> int:
    """Return how many GPUs of this machine a run would see."""
    if hardware.device == "cpu" or not torch.cuda.is_available():
        return 0
    return torch.cuda.device_count()


def ranks_here(hardware: HardwareConfig, gpus: int) -> int:
    """Return how many ranks this machine would run: the launcher's number, else one a GPU, else the config's."""
    told = os.environ.get("LOCAL_WORLD_SIZE", "")
    if told.isdigit():
        return int(told)
    wanted = hardware.world_size or max(1, gpus)
    return min(wanted, gpus) if gpus else wanted


def threads_of_a_rank(hardware: HardwareConfig) -> int:
    """Return the CPU threads a rank would use: as set, else torch's choice (OMP_NUM_THREADS, or one a core)."""
    return hardware.num_threads or torch.get_num_threads()


def uses_bf16(hardware: HardwareConfig, gpus: int) -> bool:
    """Return whether a run would compute in bf16 here: where it is asked for, or native on the GPU."""
    native = gpus > 0 and torch.cuda.get_device_capability()[0] >= 8
    return hardware.precision == "bf16" or (hardware.precision == "auto" and native)


def run_dtype(hardware: HardwareConfig, gpus: int) -> torch.dtype:
    """Return what a run would compute in here: fp16 where it is asked for, or on a GPU without native bf16."""
    if uses_bf16(hardware, gpus):
        return torch.bfloat16
    is_fp16 = hardware.precision == "fp16" or (hardware.precision == "auto" and gpus > 0)
    return torch.float16 if is_fp16 else torch.float32


def look_at_gpu(config: Config, gpus: int) -> Iterator[Finding]:
    """List the GPUs, or say why torch sees none."""
    hardware = config.hardware
    if hardware.device == "cpu":
        yield ok("gpu", "not looked for: hardware.device=cpu")
    elif gpus == 0 and hardware.device == "gpu":
        remedy = "mend the driver (nvidia-smi), start the container with its GPUs (--gpus all), or use hardware=cpu"
        yield mend("gpu", f"hardware.device=gpu, but {why_no_gpu()}", remedy)
    elif gpus == 0:
        yield note("gpu", f"{why_no_gpu()}; a run computes on the CPU")
    else:
        for index in range(gpus):
            yield _gpu_line(config, index)
        yield from _share_of_ranks(hardware, gpus)


def why_no_gpu() -> str:
    """Return the most likely reason why torch sees no GPU."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built for CPUs only"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "not set").strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']!r} hides every GPU"
    if not Path("/dev/nvidiactl").exists() and not Path("/dev/kfd").exists():
        return "this machine or container has no GPU device (/dev/nvidiactl)"
    return f"torch {torch.__version__} finds no usable GPU ({driver_version()})"


def driver_version() -> str:
    """Return the NVIDIA driver's version, as the kernel module says it."""
    path = Path("/proc/driver/nvidia/version")
    if not path.exists():
        return "no NVIDIA driver is loaded"
    words = path.read_text().split()
    return f"driver {next((word for word in words if word[:1].isdigit() and '.' in word), 'of unknown version')}"


def _gpu_line(config: Config, index: int) -> Finding:
    facts = torch.cuda.get_device_properties(index)
    free_bytes, total_bytes = torch.cuda.mem_get_info(index)
    bf16 = "bf16" if facts.major >= 8 else "no native bf16"
    text = (
        f"{index}: {facts.name}, compute capability {facts.major}.{facts.minor}, {bf16}, "
        f"{readable_bytes(free_bytes)} free of {readable_bytes(total_bytes)}, {driver_version()}, "
        f"CUDA {torch.version.cuda}"
    )
    needed = _STATE_BYTES * count_parameters(config.model).total
    if needed > total_bytes:
        return mend(
            "gpu",
            f"{text}; weights, gradients and moments alone take {readable_bytes(needed)}",
            "use a GPU with more memory, or a smaller model=",
        )
    if free_bytes < total_bytes * (1 - _BUSY_SHARE):
        return note("gpu", f"{text}; another process uses its memory (nvidia-smi lists it)")
    return ok("gpu", text)


def _share_of_ranks(hardware: HardwareConfig, gpus: int) -> Iterator[Finding]:
    ranks = hardware.world_size
    if ranks is None or ranks <= gpus:
        return
    if ranks % gpus == 0:
        yield note("gpu", f"hardware.world_size={ranks} takes {ranks // gpus} machines with {gpus} GPUs each")
        return
    yield mend(
        "gpu",
        f"hardware.world_size={ranks} is not a multiple of this machine's {gpus} GPUs",
        f"set hardware.world_size to a multiple of {gpus}, or choose the GPUs with CUDA_VISIBLE_DEVICES",
    )


def look_at_attention(config: Config, gpus: int) -> Iterator[Finding]:
    """Say which backend a run would choose, and compare it with the reference on a few tokens."""
    hardware = config.hardware
    yield _packages_line()
    if hardware.device == "gpu" and gpus == 0:
        yield note("attention", f"attention_backend={hardware.attention_backend} cannot be tried without the GPU")
        return
    device = torch.device("cuda" if gpus else "cpu")
    dtype, head_width = run_dtype(hardware, gpus), config.model.hidden_size // config.model.num_heads
    total_tokens = sum(phase.tokens for phase in config.phases.values())
    name, line = choose_backend(
        hardware.attention_backend,
        device.type,
        total_tokens,
        hardware.allow_slow_attention,
        half_precision=dtype != torch.float32,
        head_width=head_width,
    )
    difference = kernel_difference(name, device, dtype, head_width)
    text = f"{line.removeprefix('attention: ')}; differs from the reference by {difference:.1e} at most"
    if difference <= _TOLERANCE[dtype]:
        yield ok("attention", text)
    else:
        yield mend("attention", f"{text}, more than {_TOLERANCE[dtype]:g}", "choose another hardware.attention_backend")


def look_at_compile(config: Config, gpus: int) -> Iterator[Finding]:
    """Say whether layers would be compiled; on a GPU that ``auto`` leaves uncompiled, what is missing."""
    wish = config.hardware.compile
    if config.hardware.device == "gpu" and gpus == 0:
        yield note("compile", f"compile={wish} cannot be judged without the GPU")
        return
    compiles, line = choose_compile(wish, "cuda" if gpus else "cpu")
    text = "off" if line is None else line.removeprefix("compile: ")
    yield ok("compile", text) if compiles or wish == "off" or not gpus else note("compile", text)


def _packages_line() -> Finding:
    """Say which kernels are there to choose from; a package that is installed has to import."""
    operator = "its operator" if hasattr(torch.ops.aten, "_flash_attention_forward") else "no operator"
    module = "its module" if importlib.util.find_spec("torch.nn.attention.varlen") is not None else "no module"
    torch_text = f"torch has {operator} and {module} for packed segments"
    if importlib.util.find_spec("flash_attn") is None:
        return ok("kernels", f"{torch_text}; flash-attn is not installed")
    try:
        version = importlib.import_module("flash_attn").__version__
    except (ImportError, OSError, RuntimeError) as error:
        text = " ".join(str(error).split())
        return mend(
            "kernels",
            f"{torch_text}; flash-attn is installed and cannot be imported: {text}",
            "pip uninstall flash-attn (torch's own kernel takes its place), or build it for this torch",
        )
    return ok("kernels", f"{torch_text}; flash-attn {version}")


def kernel_difference(name: str, device: torch.device, dtype: torch.dtype, head_width: int = 64) -> float:
    """Return the largest difference of a backend to the reference in fp32, on a few segments, local and global."""
    layout = SegmentLayout.from_lengths(_LENGTHS, device)
    generator = torch.Generator().manual_seed(0)
    qkv_T3NH = torch.randn(sum(_LENGTHS), 3, 2, head_width, generator=generator).to(device, dtype)
    largest = 0.0
    for window_tokens in (None, 16):
        out_TNH = get_backend(name)(qkv_T3NH, layout, window_tokens).float()
        exact_TNH = reference.attend(qkv_T3NH.float(), layout, window_tokens)
        largest = max(largest, float((out_TNH - exact_TNH).abs().max()))
    return largest


def look_at_nccl(gpus: int) -> Iterator[Finding]:
    """Let two GPUs (or one with itself) sum their numbers through NCCL, in processes of their own."""
    has_nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    if gpus == 0:
        built = "this torch has it" if has_nccl else "this torch has none"
        yield ok("nccl", f"not tried without a GPU ({built})")
    elif not has_nccl:
        yield mend("nccl", f"torch {torch.__version__} is built without NCCL", "install torch from its CUDA index")
    else:
        ranks = min(2, gpus)
        with start_loopback("nccl", ranks) as probe:
            yield from look_at_loopback(probe, "nccl", ranks, _NCCL_REMEDY)
