"""Packed blocks from MDS shards, through MosaicML Streaming. The only module that imports it.

A pass is ``max(1, floor(N / q)) * q`` blocks, q being the phase's batch quantum, reshuffled each pass; a length that
q divides is what makes the blocks of every step the same for any number of ranks, workers and nodes (docs/design.md,
4). Where a pass begins and how far it is are given by the caller; nothing is restored from a checkpoint.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import streaming.base.dataset
from streaming import Stream, StreamingDataset
from streaming.base.format import reader_from_json
from streaming.base.storage import CloudDownloader
from torch.utils.data import DataLoader

from padless.data.collate import Block
from padless.data.shared_memory import claim_prefix
from padless.errors import DataError

# Its own search collides between nodes of one host.
streaming.base.dataset.get_shm_prefix = claim_prefix  # pyright: ignore[reportPrivateImportUsage]


@dataclass(frozen=True)
class StreamSource:
    """One stream of a phase: a folder with ``index.json`` and shards (or the cache for a remote one)."""

    name: str
    local: Path
    remote: str | None
    proportion: float
    num_blocks: int


def fetch(remote: str, local: Path) -> None:
    """Download one small file (a manifest, an index, a tokenizer) from a remote that Streaming can read.

    Raises:
        DataError: the file is not there or cannot be reached.
    """
    local.parent.mkdir(parents=True, exist_ok=True)
    try:
        CloudDownloader.direct_download(remote, str(local))
    except Exception as error:
        raise DataError(
            f"cannot fetch {remote}: {type(error).__name__}: {error}",
            "check data.streams.<name>.remote and the credentials for it",
        ) from error


def pass_blocks(num_blocks: int, quantum_blocks: int) -> int:
    """Return the blocks of one pass over ``num_blocks`` blocks of data: a multiple of the quantum, at least one."""
    return max(1, num_blocks // quantum_blocks) * quantum_blocks


class _BlockDataset(StreamingDataset):
    """Adds the stream's name to every sample."""

    def __init__(self, sources: list[StreamSource], **settings: Any) -> None:
        self.source_names = [source.name for source in sources]
        super().__init__(**settings)

    def get_item(self, sample_id: int, retry: int = 7) -> Block:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the block with a global sample id."""
        sample = super().get_item(sample_id, retry)
        shard_id, _ = self.spanner[sample_id]
        name = self.source_names[self.stream_per_shard[shard_id]]
        return Block(name, int(sample["block"]), sample["tokens"], sample["lengths"].astype(np.int32))


def _as_list(blocks: list[Block]) -> list[Block]:
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
    ) -> None:
        self.num_blocks = sum(source.num_blocks for source in sources)
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
        )
        self._loader: DataLoader[Block] = DataLoader(
            self._dataset,
            batch_size=microbatch_blocks,
            num_workers=num_workers,
            collate_fn=_as_list,
            persistent_workers=num_workers > 0,
        )

    def microbatches(self, position_blocks: int) -> Iterator[list[Block]]:
        """Yield this rank's microbatches from the global position ``position_blocks`` on, pass after pass."""
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
        while True:
            yield from self._loader


def _stream(source: StreamSource) -> Stream:
    return Stream(
        local=str(source.local),
        remote=source.remote,
        proportion=source.proportion,
    )


class ValidationBlocks:
    """Random access to the blocks of one validation split that lies on local disk; no shared memory, no order."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        index = json.loads((folder / "index.json").read_text())
        self._readers = [reader_from_json(str(folder), None, entry) for entry in index["shards"]]
        self._starts = np.cumsum([0, *(reader.size for reader in self._readers)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Block:
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        sample = self._readers[shard][index - int(self._starts[shard])]
        return Block(self.name, int(sample["block"]), sample["tokens"], sample["lengths"].astype(np.int32))


def fetch_split(remote: str, local: Path) -> None:
    """Download a whole split (index and shards) that is not there yet; used for validation, which is small."""
    if not (local / "index.json").exists():
        fetch(f"{remote}/index.json", local / "index.json")
    for entry in json.loads((local / "index.json").read_text())["shards"]:
        name = entry["raw_data"]["basename"]
        if not (local / name).exists():
            fetch(f"{remote}/{name}", local / name)
