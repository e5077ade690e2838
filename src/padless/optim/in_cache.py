"""AdamW and StableAdamW for a CPU: each tensor in pieces that stay in a core's cache.

An optimizer step does little arithmetic on much memory. Written operator by operator over whole tensors it reads and
writes them some twenty times. AdamW (Loshchilov & Hutter 2019, algorithm 2) is one pass here. StableAdamW (Wortsman et
al. 2023, algorithm 2) divides the learning rate by a figure of the whole tensor, so it takes two: moments and that
figure, then weights. The arithmetic is that of torch-optimi, which runs on GPUs, and tests hold the two together.

Legend: K elements of a piece.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

_PIECE_ELEMENTS = 1 << 16  # 256 KiB of each of weight, gradient and both moments


class InCacheAdamW(torch.optim.Optimizer):
    """AdamW with debiased betas, and weight decay decoupled from the learning rate.

    A step shrinks a weight by ``weight_decay x lr / max_lr``. Moments are kept without bias, where torch's AdamW keeps
    them biased and corrects what it takes from them: the same up to rounding. Groups have the settings ``lr``,
    ``max_lr``, ``weight_decay``, ``beta1``, ``beta2``, ``eps`` and the counter ``step``.

    Args:
        groups: parameter groups.
        lr: learning rate.
        max_lr: the schedule's peak.
        betas: of the moving averages of gradient and squared gradient.
        eps: added to the root of the second.
        weight_decay: of groups that do not say otherwise.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        max_lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        defaults = {"lr": lr, "max_lr": max_lr, "beta1": betas[0], "beta2": betas[1], "eps": eps}
        super().__init__(groups, {**defaults, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["step"] = group.get("step", torch.tensor(0, dtype=torch.int32)) + 1
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, self._moments(parameter), group)
        return loss

    def _update(self, parameter: Tensor, moments: tuple[Tensor, Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = _debiased_betas(group)
        shrink = _shrink(group, group["lr"])
        for weight_K, grad_K, mean_K, square_K in _pieces(parameter, parameter.grad, *moments):
            _average(grad_K, mean_K, square_K, beta1, beta2)
            _move(weight_K, mean_K, square_K, group, group["lr"], shrink)

    def _moments(self, parameter: Tensor) -> tuple[Tensor, Tensor]:
        state = self.state[parameter]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state["exp_avg"], state["exp_avg_sq"]


class InCacheStableAdamW(InCacheAdamW):
    """AdamW whose learning rate is divided, tensor by tensor, by how far gradients have outgrown their second moment.

    By the root of the mean of ``gradient^2 / second moment`` where that is over 1. A step shrinks a weight by
    ``weight_decay x lr / max_lr``, ``lr`` being the divided one.
    """

    def _update(self, parameter: Tensor, moments: tuple[Tensor, Tensor], group: dict[str, Any]) -> None:
        beta1, beta2 = _debiased_betas(group)
        least, total = group["eps"] * group["eps"], 0.0
        for grad_K, mean_K, square_K in _pieces(parameter.grad, *moments):
            _average(grad_K, mean_K, square_K, beta1, beta2)
            total += float((grad_K * grad_K).div_(square_K.clamp(min=least)).sum())
        rms = (total / parameter.numel()) ** 0.5
        lr = group["lr"] / max(1.0, rms)
        shrink = _shrink(group, lr)
        for weight_K, mean_K, square_K in _pieces(parameter, *moments):
            _move(weight_K, mean_K, square_K, group, lr, shrink)


def debiased(beta: float, step: int) -> float:
    """Return the beta with which a moving average from zero needs no correction at ``step``, counted from 1."""
    return (beta**step - beta) / (beta**step - 1)


def _debiased_betas(group: dict[str, Any]) -> tuple[float, float]:
    step = int(group["step"])
    return debiased(group["beta1"], step), debiased(group["beta2"], step)


def _shrink(group: dict[str, Any], lr: float) -> float:
    """Return what a step multiplies a weight with: the one definition of weight decay here."""
    return 1 - lr / group["max_lr"] * group["weight_decay"]


def _average(grad_K: Tensor, mean_K: Tensor, square_K: Tensor, beta1: float, beta2: float) -> None:
    mean_K.lerp_(grad_K, weight=1 - beta1)
    square_K.mul_(beta2).addcmul_(grad_K, grad_K, value=1 - beta2)


def _move(weight_K: Tensor, mean_K: Tensor, square_K: Tensor, group: dict[str, Any], lr: float, shrink: float) -> None:
    if group["weight_decay"] != 0:
        weight_K.mul_(shrink)
    weight_K.addcdiv_(mean_K, square_K.sqrt().add_(group["eps"]), value=-lr)


def _pieces(*tensors: Tensor | None) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same stretch of each tensor, flat."""
    flat = [tensor.view(-1) for tensor in tensors if tensor is not None]
    yield from zip(*(each.split(_PIECE_ELEMENTS) for each in flat), strict=True)
