"""Files of streams that lie on a remote (object store, hub, another folder), fetched into the node's cache.

What decides where Streaming will write, the index, is fetched and checked here first; it then takes the local one.
"""

import socket
from pathlib import Path

from streaming.base.storage import CloudDownloader

from padless.data.shard_check import PackedSplit, check_index, check_size
from padless.errors import DataError

CHECK_REMOTE = "check data.streams.<name>.remote and the credentials for it"


def fetch(remote: str, local: Path) -> None:
    """Download one small file (a manifest, an index, a tokenizer) from a remote that Streaming can read.

    It appears under its name when it is whole.

    Raises:
        DataError: the file is not there or cannot be reached.
    """
    local.parent.mkdir(parents=True, exist_ok=True)
    partial = local.with_name(f"{local.name}.{socket.gethostname()}.fetched")  # the folder may be several nodes'
    partial.unlink(missing_ok=True)
    try:
        CloudDownloader.direct_download(remote, str(partial))
    except Exception as error:
        raise DataError(
            f"cannot fetch {remote}: {type(error).__name__}: {' '.join(str(error).split())}", CHECK_REMOTE
        ) from error
    partial.replace(local)


def fetch_index(remote: str, split: PackedSplit) -> None:
    """Download a split's ``index.json`` if it is not there, and check it before Streaming reads it and writes by it.

    Raises:
        DataError: it cannot be fetched, or is not the manifest's.
    """
    if not split.index.exists():
        fetch(f"{remote}/index.json", split.index)
    check_index(split)


def fetch_split(remote: str, split: PackedSplit) -> None:
    """Download a whole split (index and shards) that is not there yet; used for validation, which is small.

    Raises:
        DataError: a file cannot be fetched, or is not the manifest's.
    """
    fetch_index(remote, split)
    for number, shard in enumerate(split.shards):
        if not split.path(number).exists():
            fetch(f"{remote}/{shard.name}", split.path(number))
        check_size(split.path(number), shard)


def drop_half_fetched(split: PackedSplit) -> int:
    """Delete cached shards that a killed download left shorter than they should be, and return how many.

    Only for the cache of a remote: they are fetched again.
    """
    dropped = 0
    for number, shard in enumerate(split.shards):
        path = split.path(number)
        if path.is_file() and path.stat().st_size < shard.bytes:
            path.unlink(missing_ok=True)
            dropped += 1
    return dropped
