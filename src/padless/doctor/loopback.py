"""Ranks of one machine that add their numbers together: does the communication library work here at all?

Run as ``python -m padless.doctor.loopback gloo 2``, in a process of its own, because a library that does not work hangs
as often as it raises. Exit code 0: the sum was right.
"""

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

_TIMEOUT = timedelta(seconds=20)
_ADDRESS = "127.0.0.1"


def add_up(backend: str, ranks: int) -> None:
    """Start ``ranks`` processes on this machine and let them sum their numbers.

    Args:
        backend: ``gloo`` (on the CPU) or ``nccl`` (rank i on GPU i).
        ranks: how many; each is a fork, made before anything touches a device.

    Raises:
        RuntimeError: the sum is wrong, or another rank failed.
    """
    read_end, write_end = os.pipe()  # tells the others on which port the first one listens
    children = []
    rank = 0
    for other in range(1, ranks):
        pid = os.fork()
        if pid == 0:
            rank, children = other, []
            break
        children.append(pid)
    try:
        _sum_of_ranks(backend, rank, ranks, read_end, write_end)
    except BaseException:
        if rank:
            os._exit(1)
        raise
    if rank:
        os._exit(0)
    for pid in children:
        if os.waitpid(pid, 0)[1] != 0:
            raise RuntimeError(f"a rank of {ranks} failed")


def _sum_of_ranks(backend: str, rank: int, ranks: int, read_end: int, write_end: int) -> None:
    if rank == 0:
        store = TCPStore(_ADDRESS, 0, ranks, True, _TIMEOUT, wait_for_workers=False)
        os.write(write_end, f"{store.port:5d}".encode() * (ranks - 1))
    else:
        store = TCPStore(_ADDRESS, int(os.read(read_end, 5)), ranks, False, _TIMEOUT)
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=_TIMEOUT)
    number = torch.tensor([rank + 1.0], device=device)
    dist.all_reduce(number)
    expected = ranks * (ranks + 1) / 2
    if number.item() != expected:
        raise RuntimeError(f"{backend} summed {ranks} ranks to {number.item()}, not to {expected}")
    dist.destroy_process_group()


if __name__ == "__main__":
    add_up(sys.argv[1], int(sys.argv[2]))
