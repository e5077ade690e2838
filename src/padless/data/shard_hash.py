"""Compare all shards with the manifest's hashes before the first step (``data.verify=all``), with progress."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console

from padless.data.progress import Progress
from padless.data.shard_check import PackedSplit, ShardFacts, check_hash, check_size

_MAX_THREADS = 16


def hash_shards(splits: Iterable[PackedSplit], console: Console, *, must_exist: bool = True) -> int:
    """Compare the size and SHA-256 of every shard of ``splits`` with the manifest's, each file once.

    Args:
        splits: what is read by the run.
        console: where progress and the time left go.
        must_exist: False for the cache of a remote: what is not there yet is left out.

    Returns:
        The bytes that were read.

    Raises:
        DataError: a shard is missing or damaged, by name.
    """
    files = {split.path(number): shard for split in splits for number, shard in enumerate(split.shards)}
    if not must_exist:
        files = {path: shard for path, shard in files.items() if path.exists()}
    total = sum(shard.bytes for shard in files.values())
    done = 0
    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    with Progress(console, "verifying shards", total) as progress, ThreadPoolExecutor(threads) as executor:
        tasks = [executor.submit(_check, path, shard) for path, shard in files.items()]
        try:
            for task in as_completed(tasks):
                done += task.result()
                progress.show(done)
        except BaseException:
            executor.shutdown(cancel_futures=True)  # the others need not be read
            raise
    return total


def _check(path: Path, shard: ShardFacts) -> int:
    check_size(path, shard)
    check_hash(path, shard)
    return shard.bytes
