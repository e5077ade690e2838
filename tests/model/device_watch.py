"""What a step must not do on a GPU: make the host wait for the device.

The meta device stands for the GPU: it has shapes but no values, so whatever needs a value on the host (``.item()``,
``.tolist()``, ``bool(tensor)``, a shape that depends on values) fails by itself; copies to the host, which meta tensors
do allow in places, and copies to the device from ordinary memory that ask the host to wait are found by watching every
operator.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_READS_VALUES = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "unique_", "equal", "is_nonzero")


class Synchronised(Exception):
    """The host would have waited for the device."""


def _devices(values: object) -> set[str]:
    return {leaf.device.type for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}


class NoSynchronisation(TorchDispatchMode):
    """Fails at an operator that would make the host wait; counts those that copy to the device.

    Args:
        device_type: the device that must not be waited for; values on other devices may be read.
    """

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type
        self.copies_to_device = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before, name = _devices((args, kwargs)), str(func).removeprefix("aten.")
        if self.device_type in before and name.partition(".")[0] in _READS_VALUES:
            raise Synchronised(f"{name} reads values of the device")
        out = func(*args, **kwargs)
        if self.device_type in before and _devices(out) - {self.device_type}:
            raise Synchronised(f"{name} copies from {self.device_type} to {_devices(out)}")
        if name.startswith("copy_") and args[1].device.type == self.device_type != args[0].device.type:
            raise Synchronised(f"{name} copies from {self.device_type} to {args[0].device.type}")
        is_copy = name.startswith("_to_copy") and self.device_type in _devices(out) and self.device_type not in before
        if is_copy and not kwargs.get("non_blocking", False):
            raise Synchronised(f"{name} to {self.device_type} is not non_blocking")
        self.copies_to_device += is_copy
        return out


def values_on_host(tensor: Tensor) -> list[Any]:
    """Break the promise in the ways a step might: used to show that the watch sees them."""
    return [
        lambda: tensor.sum().item(),
        lambda: tensor.cpu(),
        lambda: tensor.nonzero(),
        lambda: tensor[tensor > 0],
        lambda: tensor.tolist(),
        lambda: bool(tensor.sum() > 0),
        lambda: torch.zeros(tensor.shape).copy_(tensor),
        lambda: torch.ones(3).to(tensor.device),
    ]
