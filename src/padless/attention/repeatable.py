"""Backward passes of attention kernels on a GPU that add up in one order, where ``hardware.deterministic`` asks for it.

Torch's kernels (FlashAttention and the memory-efficient one) do so only where operators without a repeatable form are
errors. The setting asks for warnings instead, so errors are asked for while these kernels run, and only then.
"""

import torch
from torch import Tensor


def is_asked_for() -> bool:
    """Return whether the same inputs have to give the same gradients, bit for bit."""
    return torch.are_deterministic_algorithms_enabled()


def with_repeatable_backward(out: Tensor) -> Tensor:
    """Return ``out``, what an attention kernel of torch gave, its gradient repeatable where that is asked for."""
    kernel = out.grad_fn
    if kernel is None or out.device.type == "cpu" or not is_asked_for():
        return out
    if torch.is_deterministic_algorithms_warn_only_enabled():
        kernel.register_prehook(lambda grads: torch.use_deterministic_algorithms(True))  # noqa: ARG005  (torch's names)
        kernel.register_hook(lambda ins, outs: torch.use_deterministic_algorithms(True, warn_only=True))  # noqa: ARG005
    return out
