"""``pytorch_model.bin``, as Ettin and mmBERT are published: tensors read by their outlines, the pickle never run."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from padless.checkpoint.archive import outline_of_archive
from padless.checkpoint.outline import Outline, RefusedError, TensorOutline
from padless.checkpoint.records import read_tensors
from padless.errors import ModelError
from padless.export.lfs import refuse_lfs_pointer
from padless.export.safetensors_header import Entry

PICKLED = "pytorch_model.bin"
_DTYPES = {
    "torch.BFloat16Storage": "BF16",
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
}
_REMEDY = "load it with transformers where you trust it and write it with save_pretrained(..., safe_serialization=True)"


def entry_of(name: str, tensor: object, what: str) -> Entry:
    """Return type and shape of a tensor's outline, as a safetensors header has them.

    Raises:
        ModelError: it is not a tensor.
    """
    if not isinstance(tensor, TensorOutline):
        raise ModelError(f"{what}: {name:.80} is not a tensor", "save the checkpoint again from the model alone")
    return Entry(_DTYPES.get(tensor.kind, tensor.kind), tensor.shape)


def outline_of_weights(file: Path) -> Outline:
    """Return what a pickled state dict holds; no tensor is read.

    Raises:
        ModelError: it is something else, is damaged, or would run something, which is named.
    """
    try:
        refuse_lfs_pointer(file)
        outline = outline_of_archive(file)
    except (RefusedError, OSError) as error:
        raise ModelError(f"{file} cannot be read: {error}; nothing in it was run", _REMEDY) from error
    if not isinstance(outline.tree, dict) or not all(isinstance(name, str) for name in outline.tree):
        raise ModelError(f"{file} does not hold tensors by name", _REMEDY)
    return outline


def read_weights(file: Path, outline: Outline) -> Mapping[str, Tensor]:
    """Return the tensors of a pickled state dict as they were saved.

    Raises:
        ModelError: it is damaged, or changed since it was looked at.
    """
    try:
        return read_tensors(file, outline, outline.tree)
    except (RefusedError, OSError) as error:
        raise ModelError(f"{file} cannot be read: {error}", "download or copy the file again") from error
