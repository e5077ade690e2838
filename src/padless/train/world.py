"""The ranks of this run: started once, used by the loader, the callbacks and the checkpoint writer."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed
from composer.devices import Device, DeviceCPU, DeviceGPU
from composer.utils import dist

from padless.config.schema import HardwareConfig
from padless.errors import ConfigError, TrainingError

T = TypeVar("T")

_TIMEOUT_S = 600.0
_LEADER_WORK = timedelta(hours=2)  # how long ranks wait while the first prepares, saves or exports


@dataclass(frozen=True)
class World:
    """Rank, number of ranks and device of this process."""

    rank: int
    size: int
    device: Device
    gloo: torch.distributed.ProcessGroup | None  # for small host objects; None with one rank

    @property
    def is_leader(self) -> bool:
        """Whether this is the rank that writes files and prints."""
        return self.rank == 0

    @property
    def is_node_leader(self) -> bool:
        """Whether this is the first rank of its node, which fetches for the others."""
        return dist.get_local_rank() == 0

    @property
    def torch_device(self) -> torch.device:
        """Device of this rank's model."""
        return torch.device("cuda", torch.cuda.current_device()) if self.is_gpu else torch.device("cpu")

    @property
    def is_gpu(self) -> bool:
        """Whether the model runs on a CUDA or ROCm device."""
        return isinstance(self.device, DeviceGPU)

    def gather(self, item: T) -> list[T]:
        """Return ``item`` of every rank, in rank order, on every rank.

        Raises:
            TrainingError: another rank has ended.
        """
        if self.gloo is None:
            return [item]
        items: list[T | None] = [None] * self.size
        with _lost_ranks_named():
            torch.distributed.all_gather_object(items, item, group=self.gloo)
        return items  # pyright: ignore[reportReturnType]  # every place has been filled

    def barrier(self) -> None:
        """Wait for all ranks.

        Raises:
            TrainingError: another rank has ended.
        """
        if self.gloo is not None:
            with _lost_ranks_named():
                torch.distributed.barrier(group=self.gloo)


@contextlib.contextmanager
def _lost_ranks_named() -> Iterator[None]:
    """Say in one line what gloo says in a traceback: the cause stands in the output of the rank that ended first."""
    try:
        yield
    except RuntimeError as error:
        if "gloo" not in str(error):
            raise
        raise TrainingError(
            f"another rank has ended or does not answer ({str(error).splitlines()[0]})",
            "look for its own error in the output; the same command goes on from the last checkpoint",
        ) from error


def start_world(hardware: HardwareConfig) -> World:
    """Join the launcher's ranks (``composer``, ``torchrun`` or none) and choose the device.

    Raises:
        ConfigError: a GPU is asked for and there is none, or the ranks are not those the config was checked for.
    """
    adopt_torchrun_environment()
    has_gpu = torch.cuda.is_available()
    if hardware.device == "gpu" and not has_gpu:
        raise ConfigError("hardware.device=gpu, but torch sees no GPU", "use hardware=cpu, or mend the driver")
    use_gpu = has_gpu and hardware.device != "cpu"
    if hardware.num_threads is not None:
        torch.set_num_threads(hardware.num_threads)
    device = DeviceGPU() if use_gpu else DeviceCPU()
    dist.initialize_dist(device, timeout=_TIMEOUT_S)
    size = dist.get_world_size()
    if hardware.world_size is not None and hardware.world_size != size:
        raise ConfigError(
            f"hardware.world_size={hardware.world_size}, but the launcher started {size} ranks",
            f"start {hardware.world_size} ranks (composer -n, torchrun --nproc-per-node), or set hardware.world_size",
        )
    gloo = torch.distributed.new_group(backend="gloo", timeout=_LEADER_WORK) if size > 1 else None
    return World(dist.get_global_rank(), size, device, gloo)


def adopt_torchrun_environment() -> None:
    """Set NODE_RANK, which Composer asks for, from torchrun's GROUP_RANK. Streaming reads it too."""
    if "GROUP_RANK" in os.environ:
        os.environ.setdefault("NODE_RANK", os.environ["GROUP_RANK"])
