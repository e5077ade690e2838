"""The zip archive around a checkpoint, checked before torch opens it: its records are what ``torch.save`` writes.

Only uncompressed records of known names, none twice, together no larger than the file, so that two readers of zip files
cannot disagree about it and none takes more memory than the file's size. See :mod:`padless.checkpoint.outline` for the
pickle in it.
"""

import re
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from padless.checkpoint.outline import Outline, RefusedError, names_in_pickle, outline_of_pickle

# A state of 600 parameters (ModernBERT-large has 172) with its moments has a pickle of about 0.3 MB.
MAX_PICKLE_BYTES = 4 << 20
_MAX_DIRECTORY_BYTES = 16 << 20
_MAX_SMALL_BYTES = 1024  # of the records beside pickle and storages
_ZIP = b"PK\x03\x04"
_RECORD = re.compile(
    r"(data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id)"
)
_STORAGE = re.compile(r"data/\d+")


def refuse_unsafe_archive(path: Path) -> None:
    """Refuse a file that is not a plain archive of tensors; reads its directory and its pickle only.

    Raises:
        RefusedError: with what is wrong.
        OSError: it cannot be read.
    """
    outline_of_archive(path)


def outline_of_archive(
    path: Path, inert: frozenset[str] = frozenset(), max_pickle_bytes: int = MAX_PICKLE_BYTES
) -> Outline:
    """Return what an archive of tensors holds; reads its directory and its pickle only, and checks both.

    Args:
        path: the file.
        inert: names beyond tensors that its pickle may call, see :func:`padless.checkpoint.outline.outline_of_pickle`.
        max_pickle_bytes: most bytes of its pickle that are read.

    Raises:
        RefusedError: with what is wrong.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        _refuse_other_kind(file)
        _refuse_large_directory(file, size)
        try:
            with zipfile.ZipFile(file) as archive:
                records = _records(archive.infolist(), size, max_pickle_bytes)
                if "data.pkl" not in records:
                    raise RefusedError("it has no data.pkl, so torch.save did not write it")
                pickled = archive.read(records["data.pkl"])
        except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, struct.error) as error:
            raise RefusedError(f"it is a damaged zip archive ({error})") from error
    outline = outline_of_pickle(pickled, inert)
    for key, num_bytes in outline.storages.items():
        record = records.get(f"data/{key}")
        if record is None:
            raise RefusedError(f"it lacks the record of storage {key!r:.20}")
        if record.file_size != num_bytes:
            raise RefusedError(
                f"it says {num_bytes:_} bytes for storage {key!r:.20}, whose record has {record.file_size:_}"
            )
    return outline


def kind_of_file(first: bytes) -> str:
    """Return in words what a file that begins with ``first`` is, naming what a pickle would call."""
    if not first:
        return "an empty file"
    if first.startswith(_ZIP):
        return "a zip archive"
    if first[:1] == b"\x80" and first[1:2] <= b"\x05":
        calls = sorted(set(names_in_pickle(first)))
        named = f" that would call {', '.join(calls[:3])}" if calls else ""
        return f"a pickle{named}"
    return "neither a zip archive nor a pickle"


def _refuse_other_kind(file: BinaryIO) -> None:
    first = file.read(len(_ZIP))
    if first != _ZIP:
        raise RefusedError(
            f"it is {kind_of_file(first + file.read(MAX_PICKLE_BYTES))}, not the zip archive that torch.save writes"
        )


def _refuse_large_directory(file: BinaryIO, size: int) -> None:
    """Find the archive's directory where torch writes it and refuse one that is larger than any real one."""
    file.seek(max(0, size - 98))
    tail = file.read(98)
    if len(tail) < 22 or tail[-22:-18] != b"PK\x05\x06" or tail[-2:] != b"\0\0":
        raise RefusedError("it is a truncated or damaged zip archive (its directory is not at its end)")
    directory_bytes = int.from_bytes(tail[-10:-6], "little")
    if tail[-42:-38] == b"PK\x06\x07" and len(tail) == 98:
        directory_bytes = int.from_bytes(tail[-58:-50], "little")
    if directory_bytes > min(size, _MAX_DIRECTORY_BYTES):
        raise RefusedError(
            f"its directory claims {directory_bytes:_} bytes, a checkpoint's has at most {_MAX_DIRECTORY_BYTES:_}"
        )


def _records(infos: list[zipfile.ZipInfo], size: int, max_pickle_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Return the records by their names within the archive's folder."""
    records: dict[str, zipfile.ZipInfo] = {}
    folder = infos[0].filename.split("/")[0] if infos else ""
    for info in infos:
        name = info.filename.removeprefix(f"{folder}/")
        if not info.filename.startswith(f"{folder}/") or not _RECORD.fullmatch(name) or folder in ("", ".."):
            raise RefusedError(f"it holds {info.filename!r:.80}, which torch.save does not write")
        if name in records:
            raise RefusedError(f"it holds {name} twice")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise RefusedError(f"its record {name} is compressed or encrypted ({info.file_size:_} bytes unpacked)")
        limit = max_pickle_bytes if name == "data.pkl" else size if _STORAGE.fullmatch(name) else _MAX_SMALL_BYTES
        if info.file_size > limit:
            raise RefusedError(f"its record {name} has {info.file_size:_} bytes, at most {limit:_} are read")
        records[name] = info
    total = sum(info.file_size for info in infos)
    if total > size:
        raise RefusedError(f"its records add up to {total:_} bytes, the file has {size:_}")
    return records
