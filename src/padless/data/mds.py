"""Packed blocks from MDS shards, through MosaicML Streaming. The only module that imports it.

A pass is ``max(1, floor(N / q)) * q`` blocks, q being the phase's batch quantum, reshuffled each pass; a length that
q divides is what makes the blocks of every step the same for any number of ranks, workers and nodes (docs/design.md,
4). Where a pass begins and how far it is are given by the caller; nothing is restored from a checkpoint.
"""

import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import streaming.base.dataset
from filelock import FileLock
from streaming import Stream, StreamingDataset
from streaming.base.dataset import _ShardState
from streaming.base.format import Reader, reader_from_json
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from padless.data.block_check import bad_sample, block_from
from padless.data.collate import Block
from padless.data.json_file import read_json
from padless.data.remote import CHECK_REMOTE
from padless.data.shard_check import PackedSplit, ShardGate, ShardMissing, check_size
from padless.data.shared_memory import claim_prefix
from padless.errors import DataError
from padless.events import reached
from padless.processes import shield_loader_process

# Its own search collides between nodes of one host.
streaming.base.dataset.get_shm_prefix = claim_prefix  # pyright: ignore[reportPrivateImportUsage]

Item = TypeVar("Item")

_FETCH_ATTEMPTS = 3  # by a reader, after the background thread's; Streaming tries each twice
# Blocks on local disk that are looked at in advance. Streaming looks every 7 ms; its own 8 microbatches of one block
# would be a limit of 9M tokens/s.
_LOOK_AHEAD_BLOCKS = 1024
_PARCEL_BLOCKS = 16  # a loader process sends at least so many at once: one by one, they cost as much as all else
_WORKER_SILENCE_S = 1800.0  # no microbatch for so long: a loader worker hangs


@dataclass(frozen=True)
class StreamSource:
    """One stream of a phase: a split with ``index.json`` and shards (or the cache for a remote one)."""

    split: PackedSplit
    remote: str | None  # of the split
    proportion: float
    hash_shards: bool = False  # compare a shard's SHA-256 when a process first reads it

    @property
    def name(self) -> str:
        """Name of the stream."""
        return self.split.stream


@dataclass(frozen=True)
class BadBlock:
    """What a loader worker returns for a block that cannot be used: an error of two lines does not survive its way."""

    cause: str
    remedy: str


def pass_blocks(num_blocks: int, quantum_blocks: int) -> int:
    """Return the blocks of one pass over ``num_blocks`` blocks of data: a multiple of the quantum, at least one."""
    return max(1, num_blocks // quantum_blocks) * quantum_blocks


class _SplitReader:
    """Reads blocks of one split; each shard passes its gate first, and each sample is checked to be a block."""

    def __init__(self, gate: ShardGate, readers: Sequence[Reader]) -> None:
        self._gate, self._readers = gate, readers

    def read(self, shard: int, place: int) -> Block:
        """Return the block at ``place`` of a shard of this split.

        Raises:
            ShardMissing: the shard is not there, or no longer.
            DataError: the shard or the block cannot be used.
        """
        split = self._gate.split
        self._gate.check(shard)
        try:
            sample = self._readers[shard][place]
        except FileNotFoundError:
            check_size(split.path(shard), split.shards[shard])
            raise
        except Exception as error:
            fault = f"it cannot be decoded ({type(error).__name__}: {' '.join(str(error).split())})"
            raise bad_sample(split, shard, place, fault) from error
        return block_from(sample, split, shard, place, self._gate.starts[shard] + place)


class _BlockDataset(StreamingDataset):
    """Reads through our checks, and returns what is wrong instead of raising it in a worker or a thread.

    A background thread that raised would end the pass early in silence, or leave the other workers waiting for ever.
    """

    def __init__(self, sources: list[StreamSource], **settings: Any) -> None:
        self._sources = sources
        gates = [
            ShardGate(source.split, hash_shards=source.hash_shards) for source in sources
        ]  # before Streaming reads
        self._fetch_errors: dict[int, str] = {}
        self._first_bad: BadBlock | None = None  # of this process; what comes after it in its order is not tried
        super().__init__(**settings)
        self._readers = []
        for number, gate in enumerate(gates):
            begin = int(self.shard_offset_per_stream[number])
            self._readers.append(_SplitReader(gate, self.shards[begin : begin + len(gate.samples)]))

    def prepare_shard(self, shard_id: int, blocking: bool = True) -> None:
        """Fetch a shard of a remote stream if it is not there; an error is kept for the reader of its samples."""
        if self._sources[self.stream_per_shard[shard_id]].remote is None:
            self._shard_states[shard_id] = _ShardState.LOCAL  # there is nothing to fetch; reading finds what is wrong
            return
        if not blocking and shard_id in self._fetch_errors:
            return  # a reader tries again, and says why not
        try:
            super().prepare_shard(shard_id, blocking)
            self._fetch_errors.pop(shard_id, None)
        except Exception as error:  # noqa: BLE001  # every remote has errors of its own
            self._fetch_errors[shard_id] = f"{type(error).__name__}: {' '.join(str(error).split())}"
            lock = getattr(self, "_cache_filelock", None)
            if isinstance(lock, FileLock) and lock.is_locked:
                lock.release()
            self._shard_states[shard_id] = _ShardState.LOCAL  # nobody waits for it

    def get_item(self, sample_id: int, retry: int = 7) -> Block | BadBlock:  # noqa: ARG002
        """Return the block with a global sample id, or why it, or one before it, cannot be used."""
        if self._first_bad is not None:
            return self._first_bad
        shard_id, place = (int(number) for number in self.spanner[sample_id])
        stream = int(self.stream_per_shard[shard_id])
        shard = shard_id - int(self.shard_offset_per_stream[stream])
        try:
            block = self._read(stream, shard, place, shard_id)
        except DataError as error:
            self._first_bad = BadBlock(error.cause, error.remedy)
            return self._first_bad
        self._shard_access_times[shard_id] = time.time_ns()  # the shard that was not read for longest is evicted
        return block

    def _read(self, stream: int, shard: int, place: int, shard_id: int) -> Block:
        source, reader = self._sources[stream], self._readers[stream]
        for _ in range(_FETCH_ATTEMPTS if source.remote else 0):
            try:
                return reader.read(shard, place)
            except ShardMissing:  # not fetched yet, or evicted by another process
                self.prepare_shard(shard_id)
        try:
            return reader.read(shard, place)
        except ShardMissing:
            if source.remote is None:
                raise
            error = self._fetch_errors.get(shard_id, "evicted before it could be read, again and again")
            raise DataError(
                f"stream {source.name!r}: cannot fetch {source.remote}/{source.split.shards[shard].name}: {error}",
                f"{CHECK_REMOTE}; the same command goes on from the last checkpoint",
            ) from None


def _as_list(blocks: list[Block | BadBlock]) -> list[Block | BadBlock]:
    return blocks


class BlockReader:
    """Endless microbatches of one rank, from a position on, for one phase.

    Args:
        sources: streams of the phase with their proportions.
        quantum_blocks: batch quantum q of the phase; ranks x ``microbatch_blocks`` divides it.
        microbatch_blocks: blocks a rank gets at once.
        num_canonical_nodes: fixed by the recipe; divides q.
        shuffle_seed: seed of the order; None keeps the order on disk.
        num_workers: loader processes.
        cache_limit_bytes: of the caches of all streams, which then have a remote; None never deletes a shard.

    Raises:
        DataError: an index is missing or is not the manifest's.
    """

    def __init__(
        self,
        sources: list[StreamSource],
        *,
        quantum_blocks: int,
        microbatch_blocks: int,
        num_canonical_nodes: int,
        shuffle_seed: int | None,
        num_workers: int,
        cache_limit_bytes: int | None = None,
    ) -> None:
        self.num_blocks = sum(source.split.num_blocks for source in sources)
        self.pass_blocks = pass_blocks(self.num_blocks, quantum_blocks)
        self._num_canonical_nodes = num_canonical_nodes
        self._dataset = _BlockDataset(
            sources,
            streams=[_stream(source) for source in sources],
            epoch_size=self.pass_blocks,
            batch_size=microbatch_blocks,
            num_canonical_nodes=num_canonical_nodes,
            shuffle=shuffle_seed is not None,
            shuffle_seed=shuffle_seed or 0,
            allow_unsafe_types=False,
            cache_limit=cache_limit_bytes,
            predownload=None
            if any(source.remote for source in sources)
            else max(_LOOK_AHEAD_BLOCKS, microbatch_blocks),
        )
        self._microbatch_blocks, self._num_processes = microbatch_blocks, max(1, num_workers)
        self._loader: DataLoader[list[Block | BadBlock]] = DataLoader(
            self._dataset,
            batch_size=-(-_PARCEL_BLOCKS // microbatch_blocks) * microbatch_blocks,
            num_workers=num_workers,
            collate_fn=_as_list,
            persistent_workers=num_workers > 0,
            worker_init_fn=shield_loader_process if num_workers > 0 else None,
            timeout=_WORKER_SILENCE_S if num_workers > 0 else 0,
        )

    def microbatches(self, position_blocks: int) -> Iterator[list[Block]]:
        """Yield this rank's microbatches from the global position ``position_blocks`` on, pass after pass.

        Loader workers live until the iterator is closed or raises.

        Raises:
            DataError: a block cannot be used, naming stream, shard and sample; or a loader worker died or hangs.
        """
        pass_index, offset_blocks = divmod(position_blocks, self.pass_blocks)
        self._dataset.load_state_dict(
            {
                "epoch": pass_index,
                "sample_in_epoch": offset_blocks,
                "num_canonical_nodes": self._num_canonical_nodes,
                "shuffle_seed": self._dataset.shuffle_seed,
                "initial_physical_nodes": None,
            }
        )
        try:
            yield from self._one_pass()
            while True:
                reached("pass_border")
                yield from self._one_pass()
        finally:
            self._end_workers()

    def _end_workers(self) -> None:
        """End the loader processes in order; left to the garbage collector, each may be waited for 5 s."""
        if isinstance(self._loader._iterator, _MultiProcessingDataLoaderIter):
            self._loader._iterator._shutdown_workers()
            self._loader._iterator = None

    def _one_pass(self) -> Iterator[list[Block]]:
        """Yield what is left of the pass."""
        is_empty = True
        try:
            for items in in_turn(iter(self._loader), self._num_processes, self._microbatch_blocks):
                is_empty = False
                yield _all_good(items)
        except RuntimeError as error:
            lost = _lost_worker(error)
            if lost is None:
                raise
            raise lost from error
        if is_empty:
            raise RuntimeError("the loader ended a pass without a block")


def in_turn(parcels: Iterator[list[Item]], num_senders: int, size: int) -> Iterator[list[Item]]:
    """Yield pieces of ``size`` items, the first of each sender, then the second of each ...

    Args:
        parcels: several pieces each, one sender after the other, round after round; only in the last rounds may they
            be shorter or missing, from the last sender on.
        num_senders: senders.
        size: items of a piece.
    """
    while True:
        round_of_pieces: list[list[list[Item]]] = []
        for parcel in islice(parcels, num_senders):  # the first piece does not wait for the other senders
            round_of_pieces.append([parcel[begin : begin + size] for begin in range(0, len(parcel), size)])
            yield round_of_pieces[-1][0]
        if not round_of_pieces:
            return
        for number in range(1, len(round_of_pieces[0])):
            yield from (pieces[number] for pieces in round_of_pieces if number < len(pieces))


def _all_good(items: list[Block | BadBlock]) -> list[Block]:
    blocks = []
    for item in items:
        if isinstance(item, BadBlock):
            raise DataError(item.cause, item.remedy)
        blocks.append(item)
    return blocks


def _lost_worker(error: RuntimeError) -> DataError | None:
    """Return what to raise for torch's two errors about lost loader workers, which are the user's to mend."""
    text = " ".join(str(error).split())
    if text.startswith("DataLoader timed out"):
        return DataError(
            f"no block came from the loader workers for {_WORKER_SILENCE_S:.0f} s",
            "look at the disk or remote of data.streams; the same command goes on from the last checkpoint",
        )
    if text.startswith("DataLoader worker"):
        return DataError(
            f"a loader worker died ({text})",
            "look for a kill or too little memory, or lower data.num_workers; the same command goes on",
        )
    return None


def _stream(source: StreamSource) -> Stream:
    return Stream(
        local=str(source.split.folder),
        remote=source.remote,
        proportion=source.proportion,
    )


class ValidationBlocks:
    """Random access to the blocks of one split that lies on local disk; no shared memory, no order.

    Args:
        split: what its manifest says.
        hash_shards: compare a shard's SHA-256 when it is first read.

    Raises:
        DataError: the index is missing or is not the manifest's.
    """

    def __init__(self, split: PackedSplit, *, hash_shards: bool = False) -> None:
        self.name = split.stream
        gate = ShardGate(split, hash_shards=hash_shards)
        entries = read_json(split.index)["shards"]  # the gate has checked them
        self._reader = _SplitReader(gate, [reader_from_json(str(split.folder), None, entry) for entry in entries])
        self._starts = gate.starts

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> Block:
        """Return block ``index``.

        Raises:
            DataError: its shard or the block itself cannot be used.
        """
        shard = bisect_right(self._starts, index) - 1
        return self._reader.read(shard, index - self._starts[shard])
