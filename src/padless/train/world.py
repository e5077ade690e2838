"""The ranks of this run: started once, used by the loader, the callbacks and the checkpoint writer.

Joining, lost ranks and leaving are by name: ``join`` says who arrives, ``presence`` who is still there. How long a
collective waits for a rank whose process lives and whose main thread hangs:

    exchange         ``hardware.rank_timeout_s``, in each step; the rank that did not come is named
    backward pass    10 minutes, the default group's; no rank is named, and all start again
    gather, barrier  2 hours: the first rank may be preparing, saving or exporting
"""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

import torch
import torch.distributed
from composer.devices import Device, DeviceCPU, DeviceGPU
from composer.utils import dist
from torch.distributed import PrefixStore  # pyright: ignore[reportPrivateImportUsage]  # documented

from padless.config.schema import HardwareConfig
from padless.errors import ConfigError, PadlessError, Stopped, TrainingError
from padless.processes import die_with_launcher
from padless.train.join import MeetingPoint, check_in
from padless.train.presence import Presence

T = TypeVar("T")

_TIMEOUT_S = 600.0
_LEADER_WORK = timedelta(hours=2)  # how long ranks wait while the first prepares, saves or exports
_LOST = "look for its own error in the output; the same command goes on from the last checkpoint"
_UNREACHABLE = (
    "the ranks have met and cannot reach each other at the address of each machine's own name (often 127.0.1.1): set "
    "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface between the machines; padless doctor shows them"
)


@dataclass(frozen=True)
class World:
    """Rank, number of ranks and device of this process. As a context manager it tells the others how this rank left."""

    rank: int
    size: int
    device: Device
    gloo: torch.distributed.ProcessGroup | None  # for small host objects; None with one rank
    hosts: tuple[str, ...] = ()  # by rank
    presence: Presence | None = None  # None with one rank
    step_gloo: torch.distributed.ProcessGroup | None = None  # for the exchange of each step; None with one rank

    def __enter__(self) -> "World":
        """Return the world itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave, with the error if there is one."""
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """Tell the other ranks that this one ends, so that its end is no loss, or which error it was.

        Args:
            error: what ends it; None in good order.
        """
        if self.presence is not None:
            cause = error.cause if isinstance(error, PadlessError) else str(error)
            code = 0 if error is None else getattr(error, "exit_code", 1)
            self.presence.leave(code, (cause.splitlines() or [type(error).__name__])[0] if error else "")

    def when_a_rank_is_lost(self, tell: Callable[[str, int], None]) -> None:
        """Have ``tell(line, exit code)`` called before this process is ended because another rank is lost.

        It runs in a thread, while the main thread sits in a collective, and has 10 s.
        """
        if self.presence is not None:
            self.presence.on_loss = tell

    @property
    def is_leader(self) -> bool:
        """Whether this is the rank that writes files and prints."""
        return self.rank == 0

    @property
    def is_node_leader(self) -> bool:
        """Whether this is the first rank of its node, which fetches for the others."""
        return dist.get_local_rank() == 0

    @property
    def num_nodes(self) -> int:
        """How many nodes the launcher has started ranks on."""
        return max(1, self.size // dist.get_local_world_size())

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
        with self.naming_lost_ranks():
            torch.distributed.all_gather_object(items, item, group=self.gloo)
        return items  # pyright: ignore[reportReturnType]  # every place has been filled

    def exchange(self, item: T) -> list[T]:
        """Return ``item`` of every rank, in rank order, on every rank, as :meth:`gather`, but once in each step.

        Raises:
            TrainingError: another rank has ended, or has not come within ``hardware.rank_timeout_s``; it is named.
        """
        if self.step_gloo is None:
            return [item]
        items: list[T | None] = [None] * self.size
        with self.naming_lost_ranks(), self.presence.in_exchange() if self.presence else contextlib.nullcontext():
            torch.distributed.all_gather_object(items, item, group=self.step_gloo)
        return items  # pyright: ignore[reportReturnType]  # every place has been filled

    def add_up(self, counts: Sequence[int]) -> list[int]:
        """Return the sums of ``counts`` over all ranks, on every rank; once in each step, on the host.

        Raises:
            TrainingError: another rank has ended, or has not come within ``hardware.rank_timeout_s``; it is named.
        """
        if self.step_gloo is None:
            return list(counts)
        sums = torch.tensor(counts, dtype=torch.int64)
        with self.naming_lost_ranks(), self.presence.in_exchange() if self.presence else contextlib.nullcontext():
            torch.distributed.all_reduce(sums, group=self.step_gloo)
        return sums.tolist()

    def succeeds_leader(self) -> bool:
        """Return whether rank 0 has been killed on this machine, and this rank is to say so in its place."""
        return self.presence is not None and self.presence.succeeds_leader()

    def barrier(self) -> None:
        """Wait for all ranks.

        Raises:
            TrainingError: another rank has ended.
        """
        if self.gloo is not None:
            with self.naming_lost_ranks():
                torch.distributed.barrier(group=self.gloo)

    def failure_elsewhere(self) -> str | None:
        """Return the line of a rank that has failed by itself, or None.

        For a rank that was stopped by a signal and is about to end: launchers end all ranks by SIGTERM when one fails,
        and that is no wish to be started again. Takes 1.5 s where there is no such rank.
        """
        loss = self.presence.explain(wait_s=1.5) if self.presence is not None else None
        return loss.line if loss is not None and loss.exit_code != Stopped.exit_code else None

    @contextlib.contextmanager
    def naming_lost_ranks(self) -> Iterator[None]:
        """Say in one line what gloo and NCCL say in a traceback, and which rank it was.

        Raises:
            TrainingError: a collective failed because another rank has ended.
            Stopped: that rank was stopped by a signal.
        """
        with _naming(self.presence):
            yield


@contextlib.contextmanager
def _naming(presence: Presence | None) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            raise
        loss = presence.explain() if presence is not None else None
        if loss is not None and loss.exit_code == Stopped.exit_code:
            raise Stopped(loss.line) from error
        raise TrainingError(
            loss.line if loss else f"another rank has ended or does not answer ({str(error).splitlines()[0]})",
            _UNREACHABLE if "connectFullMesh" in str(error) else _LOST,
        ) from error


def start_world(hardware: HardwareConfig) -> World:
    """Join the launcher's ranks (``composer``, ``torchrun`` or none) and choose the device.

    Raises:
        ConfigError: a GPU is asked for and there is none, or the ranks are not those the config was checked for.
        TrainingError: a rank has not arrived within ``hardware.rank_timeout_s``.
    """
    die_with_launcher()
    adopt_torchrun_environment()
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # before CUDA: sizes vary by step
    has_gpu = torch.cuda.is_available()
    if hardware.device == "gpu" and not has_gpu:
        raise ConfigError("hardware.device=gpu, but torch sees no GPU", "use hardware=cpu, or mend the driver")
    use_gpu = has_gpu and hardware.device != "cpu"
    if hardware.num_threads is not None:
        torch.set_num_threads(hardware.num_threads)
    device = DeviceGPU() if use_gpu else DeviceCPU()
    size = dist.get_world_size()
    if hardware.world_size is not None and hardware.world_size != size:
        raise ConfigError(
            f"hardware.world_size={hardware.world_size}, but the launcher started {size} ranks",
            f"start {hardware.world_size} ranks (composer -n, torchrun --nproc-per-node), or set hardware.world_size",
        )
    if size > 1:
        return _join(device, hardware.rank_timeout_s)
    dist.initialize_dist(device, timeout=_TIMEOUT_S)
    return World(0, 1, device, None, (socket.gethostname(),))


def lone_world() -> World:
    """Return a world of this process alone, on a GPU where there is one: for commands that train nothing."""
    device = DeviceGPU() if torch.cuda.is_available() else DeviceCPU()
    return World(0, 1, device, None, (socket.gethostname(),))


def _join(device: Device, timeout_s: float) -> World:
    """Meet the other ranks, watch over them, and only then make the process groups."""
    point = MeetingPoint.from_environment()
    store = point.open(timeout_s)
    members = check_in(point, point.marks(store), timeout_s)
    presence = Presence(
        lambda: point.marks(point.connect()),
        point.rank,
        members,
        timeout_s,
        holder=point.holder,
        rank_0_holds_store=not point.agent_holds_store,
    )
    presence.start()
    with _naming(presence):
        torch.distributed.init_process_group(
            device.dist_backend,
            store=PrefixStore(f"default_pg/{point.attempt}", store),
            rank=point.rank,
            world_size=point.size,
            timeout=timedelta(seconds=_TIMEOUT_S),
        )
        gloo = torch.distributed.new_group(backend="gloo", timeout=_LEADER_WORK)
        step_gloo = torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
    hosts = tuple(member.host for member in members)
    return World(point.rank, point.size, device, gloo, hosts, presence, step_gloo)


def adopt_torchrun_environment() -> None:
    """Set NODE_RANK, which Composer asks for, from torchrun's GROUP_RANK. Streaming reads it too."""
    if "GROUP_RANK" in os.environ:
        os.environ.setdefault("NODE_RANK", os.environ["GROUP_RANK"])
