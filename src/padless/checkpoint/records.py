"""Reads tensors out of an archive by their outlines: bytes from its records, no unpickling and no torch.load.

A storage is read once, whatever the number of tensors in it, and as many bytes as its outline says and no more.
"""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from padless.checkpoint.outline import Outline, RefusedError, TensorOutline

_DTYPES = {
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.BoolStorage": torch.bool,
    "torch.ByteStorage": torch.uint8,
    "torch.CharStorage": torch.int8,
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.IntStorage": torch.int32,
    "torch.LongStorage": torch.int64,
    "torch.ShortStorage": torch.int16,
}


def dtype_of(tensor: TensorOutline) -> torch.dtype:
    """Return the type of its elements."""
    return _DTYPES[tensor.kind]


def read_tensors(path: Path, outline: Outline, tensors: Mapping[str, TensorOutline]) -> dict[str, Tensor]:
    """Return ``tensors`` by their names, contiguous, as they were saved, on the CPU.

    Args:
        path: the archive.
        outline: what :func:`padless.checkpoint.archive.outline_of_archive` said of it.
        tensors: those to read, parts of ``outline``.

    Raises:
        RefusedError: a record is gone, short or damaged.
        OSError: it cannot be read.
    """
    by_storage: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        by_storage.setdefault(tensor.storage_key, []).append(name)
    found: dict[str, Tensor] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            folder = archive.namelist()[0].split("/")[0]
            for key, names in by_storage.items():
                record = archive.getinfo(f"{folder}/data/{key}")
                storage = _read_record(archive, record, outline.storages[key])
                for name in names:
                    each = tensors[name]
                    typed = storage.view(dtype_of(each))
                    found[name] = typed.as_strided(each.shape, each.strides, each.offset).contiguous()
    except (zipfile.BadZipFile, KeyError, IndexError, EOFError, struct.error, NotImplementedError) as error:
        raise RefusedError(f"it is a damaged zip archive ({error})") from error
    return {name: found[name] for name in tensors}


def _read_record(archive: zipfile.ZipFile, record: zipfile.ZipInfo, num_bytes: int) -> Tensor:
    """Return a record's bytes; zipfile compares them with the archive's checksum at their end."""
    data = bytearray(num_bytes)
    view = memoryview(data)
    with archive.open(record) as opened:
        at = 0
        while at < num_bytes:
            count = opened.readinto(view[at:])  # pyright: ignore[reportAttributeAccessIssue]  # a ZipExtFile has it
            if not count:
                raise RefusedError(f"its record {record.filename!r:.60} ends after {at:_} of {num_bytes:_} bytes")
            at += count
        opened.read(1)  # the end, where the checksum is compared
    return torch.frombuffer(data, dtype=torch.uint8) if num_bytes else torch.empty(0, dtype=torch.uint8)
