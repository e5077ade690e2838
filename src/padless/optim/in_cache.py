"""AdamW and StableAdamW for a CPU, in as few passes over memory as they allow.

An optimizer step does little arithmetic on much memory. Written operator by operator over whole tensors it reads and
writes them some twenty times. AdamW (Loshchilov & Hutter 2019, algorithm 2) could be one pass. StableAdamW (Wortsman et
al. 2023, algorithm 2) divides the learning rate by a figure of the whole tensor, so it takes two: moments and that
figure, then weights; so do both here. The arithmetic is that of torch-optimi, which runs on GPUs, and tests hold the
two together. The passes are :mod:`padless.kernels.native_moments`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from padless.kernels.native_moments import average, move


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
        assert parameter.grad is not None
        least = group["eps"] * group["eps"]
        ratio = average(parameter.grad.contiguous(), *moments, *_debiased_betas(group), least)
        lr = group["lr"] / self._brake(ratio)
        move(parameter, *moments, _shrink(group, lr), lr, group["eps"])

    def _brake(self, ratio: float) -> float:  # noqa: ARG002 - StableAdamW's depends on it
        """Return what divides a tensor's learning rate, given its mean of gradient^2 / second moment."""
        return 1.0

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

    def _brake(self, ratio: float) -> float:
        return max(1.0, ratio**0.5)


def debiased(beta: float, step: int) -> float:
    """Return the beta with which a moving average from zero needs no correction at ``step``, counted from 1."""
    return (beta**step - beta) / (beta**step - 1)


def _debiased_betas(group: dict[str, Any]) -> tuple[float, float]:
    step = int(group["step"])
    return debiased(group["beta1"], step), debiased(group["beta2"], step)


def _shrink(group: dict[str, Any], lr: float) -> float:
    """Return what a step multiplies a weight with: the one definition of weight decay here."""
    return 1 - lr / group["max_lr"] * group["weight_decay"]
