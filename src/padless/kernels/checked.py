"""What a kernel is called with, held to what it reads and writes: it is given addresses, and would write anywhere."""

import torch
from torch import Tensor

_ANY = (torch.float32, torch.bfloat16)
_DTYPES = {"f": (torch.float32,), "b": (torch.bfloat16,), "i": (torch.int32,)}


def check_shapes(specification: str, *tensors: Tensor, rows_apart: bool = False) -> dict[str, int]:
    """Hold tensors to one legend, and return its sizes.

    Args:
        specification: a word a tensor, a letter a dimension, as in ``CD D C:f``; equal letters are equal sizes, digits
            are themselves. ``:f`` asks for fp32, ``:b`` for bf16, ``:i`` for int32; otherwise fp32 or bf16 will do.
        tensors: on a CPU and contiguous.
        rows_apart: whether only the last dimension has to be.

    Raises:
        ValueError: a tensor of another shape, dtype, device or layout.
    """
    sizes: dict[str, int] = {}
    for number, (word, tensor) in enumerate(zip(specification.split(), tensors, strict=True), start=1):
        letters, _, kind = word.partition(":")
        dtypes = _DTYPES.get(kind, _ANY)
        fits = len(letters) == tensor.ndim and all(
            size == (int(letter) if letter.isdigit() else sizes.setdefault(letter, size))
            for letter, size in zip(letters, tensor.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"argument {number} of a kernel is {tuple(tensor.shape)}, not {letters} with {sizes}")
        if tensor.dtype not in dtypes:
            raise ValueError(f"argument {number} of a kernel is {tensor.dtype}, not one of {dtypes}")
        is_laid = tensor.stride(-1) == 1 if rows_apart else tensor.is_contiguous()
        if tensor.device.type != "cpu" or not (is_laid or tensor.numel() == 0):
            raise ValueError(f"argument {number} of a kernel is not contiguous memory of a CPU")
    return sizes
