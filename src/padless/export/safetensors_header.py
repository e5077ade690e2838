"""Names, types and shapes in a safetensors file, from its header alone: no weight is read and no code can run."""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from padless.checkpoint.archive import kind_of_file
from padless.errors import ModelError
from padless.export.lfs import refuse_lfs_pointer

_MAX_HEADER_BYTES = 16 << 20  # a header has about 100 bytes a tensor
_LENGTH_BYTES = 8
_MAX_LOOKED_AT_BYTES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A tensor as the header describes it."""

    dtype: str  # safetensors' name, such as "BF16"
    shape: tuple[int, ...]


def read_header(file: Path) -> dict[str, Entry]:
    """Return the tensors that a file holds, by name.

    Raises:
        ModelError: not a safetensors file (what it is instead is said), truncated, or its sizes are absurd.
    """
    try:
        refuse_lfs_pointer(file)
        problem = _problem_of_length(file)
        if problem is None:
            with safe_open(file, framework="pt") as opened:
                slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
                return {name: Entry(each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}
    except (SafetensorError, OSError) as error:
        problem = _kind(file) or str(error)
    raise ModelError(f"{file} cannot be read: {problem}", "download or copy the file again, as safetensors")


def _problem_of_length(file: Path) -> str | None:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
    if length + _LENGTH_BYTES > size:
        return _kind(file) or f"its header claims {length:_} bytes, the file has {size:_}"
    if length > _MAX_HEADER_BYTES:
        return f"its header claims {length:_} bytes, at most {_MAX_HEADER_BYTES:_} are read"
    return None


def _kind(file: Path) -> str | None:
    """Return what a file is that is no safetensors file, if that can be told."""
    try:
        with file.open("rb") as opened:
            kind = kind_of_file(opened.read(_MAX_LOOKED_AT_BYTES))
    except OSError:
        return None
    return None if kind.startswith("neither") else f"it is {kind}, not safetensors"
