"""A name of our own for Streaming's shared memory.

Streaming numbers its shared memory: each node's first rank looks for the lowest number that nobody uses, waits for the
other ranks, and takes it. Two nodes on one host (two torchrun agents, two runs started together) find the same number,
and the second dies; and a stream with a remote is refused if any earlier dataset, even a dead one, had the same cache
folder. Here the first rank of each node draws a number and takes it at once, or draws again; the others of its node are
told. Names can then neither collide nor be taken by what a killed run left over. The first rank holds the number's
owner file for as long as it lives, by which the next start tells what is left over (``leftovers.py``).
"""

import secrets
from typing import Any

import torch.distributed
from streaming.base.constant import LOCALS
from streaming.base.shared import SharedMemory
from streaming.base.shared.prefix import _get_path, _pack_locals
from streaming.base.world import World

from padless.data.leftovers import hold, release

_LOWEST, _HIGHEST = 100_000, 999_999  # six digits: macOS allows few characters


def claim_prefix(
    streams_local: list[str],
    streams_remote: list[str | None],  # noqa: ARG001  (Streaming's signature)
    world: World,
    retry: int = 100,
) -> tuple[int, SharedMemory]:
    """Return the number of this node's shared memory and the piece that holds it; stands in for Streaming's own search.

    Args:
        streams_local: local folders of the streams; recorded in shared memory, as Streaming does.
        streams_remote: not looked at: a cache folder may be used again.
        world: Streaming's view of nodes and ranks.
        retry: draws before giving up.

    Raises:
        RuntimeError: no free number was drawn.
    """
    claimed: tuple[int, SharedMemory] | None = None
    if world.is_local_leader:
        claimed = _claim(streams_local, retry)
    if world.num_ranks == 1:
        if claimed is None:
            raise RuntimeError("a single rank is its node's leader")
        return claimed
    mine = (world.node, claimed[0] if claimed else None)
    everyone: list[Any] = [None] * world.num_ranks
    torch.distributed.all_gather_object(everyone, mine)
    prefix = next(number for node, number in everyone if node == world.node and number is not None)
    if claimed is not None:
        return claimed
    return prefix, SharedMemory(_get_path(prefix, LOCALS), False)


def _claim(streams_local: list[str], retry: int) -> tuple[int, SharedMemory]:
    for _ in range(retry):
        prefix = _LOWEST + secrets.randbelow(_HIGHEST - _LOWEST + 1)
        if not hold(prefix):
            continue
        data = _pack_locals(streams_local, prefix)
        try:
            memory = SharedMemory(_get_path(prefix, LOCALS), True, len(data))
        except FileExistsError:
            release(prefix)
            continue
        memory.buf[: len(data)] = data
        return prefix, memory
    raise RuntimeError(f"no free name for shared memory in {retry} draws")
