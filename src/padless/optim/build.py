"""The optimizers: StableAdamW (Wortsman et al. 2023, arXiv 2304.13013), the recipe's, and AdamW (arXiv 1711.05101).

No decay on norms and biases. Decay is decoupled from the learning rate, and means the same for both kinds: a step
shrinks a weight by ``weight_decay x lr / max_lr``, where ``max_lr`` is the phase's peak, set anew at each hand-over.
``torch.optim.AdamW`` shrinks it by ``lr x weight_decay``, so its value is ours divided by the peak: 1e-5 at a peak of
8e-4 is 0.0125 there.

The implementation is chosen by device: torch-optimi's Triton kernels on a GPU, :mod:`padless.optim.in_cache` on a CPU.
Where Triton can launch nothing, and for StableAdamW where ``hardware.deterministic`` asks for it (its kernel adds a
matrix's squares up in whatever order its blocks end), torch-optimi's plain loop takes their place; it reads the device
once a matrix. The saved states of all of them are the same: moments without bias, and a counter a group.
"""

from typing import Any

import torch
from torch import nn

from padless.config.schema import OptimizerConfig
from padless.errors import CheckpointError
from padless.kernels.toolchain import missing_to_launch
from padless.optim.in_cache import InCacheAdamW, InCacheStableAdamW

_MOMENTS = ("exp_avg", "exp_avg_sq")


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, peak_lr: float, weight_decay: float, is_gpu: bool
) -> torch.optim.Optimizer:
    """Return the optimizer of the configured kind over ``model``: matrices with decay, norms and biases without."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    undecayed = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "decays": True}, {"params": undecayed, "decays": False, "weight_decay": 0.0}]
    betas = (config.beta1, config.beta2)
    if not is_gpu:
        in_cache = InCacheStableAdamW if config.kind == "stable_adamw" else InCacheAdamW
        return in_cache(groups, peak_lr, peak_lr, betas, config.eps, weight_decay)
    import optimi  # brings Triton and torch's compiler, which a CPU does without

    is_stable = config.kind == "stable_adamw"
    adds_in_any_order = is_stable and torch.are_deterministic_algorithms_enabled()
    return (optimi.StableAdamW if is_stable else optimi.AdamW)(
        groups,
        lr=peak_lr,
        betas=betas,
        eps=config.eps,
        weight_decay=weight_decay,
        decouple_lr=True,
        max_lr=peak_lr,
        triton=missing_to_launch() is None and not adds_in_any_order,
        foreach=False,
    )


def set_schedule(optimizer: torch.optim.Optimizer, lr: float, peak_lr: float, weight_decay: float) -> None:
    """Apply this step's learning rate and decay; groups without decay keep none."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        group["max_lr"] = peak_lr
        group["weight_decay"] = weight_decay if group["decays"] else 0.0


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """Return moments by parameter name and each group's step counter, ready for a checkpoint."""
    moments = {
        name: {key: optimizer.state[parameter][key] for key in _MOMENTS}
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }
    counters = {str(number): group.get("step") for number, group in enumerate(optimizer.param_groups)}
    return {"moments": moments, "group_steps": counters}


def load_optimizer_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, saved: dict[str, dict[str, Any]], origin: str
) -> None:
    """Put back what :func:`optimizer_state` returned. Learning rate and decay are not part of it.

    Args:
        model: has the parameters by name.
        optimizer: gets the state.
        saved: the state.
        origin: the file it comes from, for the message.

    Raises:
        CheckpointError: it is not the state of this optimizer.
    """
    _refuse_other_state(optimizer, saved, origin)
    parameters = dict(model.named_parameters())
    group_of = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    for name, state in saved["moments"].items():
        parameter = parameters[name]
        init_state = getattr(optimizer, "_init_state", None)
        if init_state is not None:  # torch-optimi's scratch tensors beside the moments
            init_state(group_of[parameter], optimizer.state[parameter], parameter)
        for key in _MOMENTS:
            optimizer.state[parameter][key] = state[key].to(parameter.device)
    for number, group in enumerate(optimizer.param_groups):
        step = saved["group_steps"][str(number)]
        if step is not None:
            group["step"] = step.clone()
            group["setup"] = True


def _refuse_other_state(optimizer: torch.optim.Optimizer, saved: dict[str, dict[str, Any]], origin: str) -> None:
    groups = {str(number) for number, _ in enumerate(optimizer.param_groups)}
    problem = None
    if set(saved["group_steps"]) != groups:
        problem = f"step counters of groups {sorted(saved['group_steps'])}, not of {sorted(groups)}"
    for name, state in saved["moments"].items():
        if not all(isinstance(state.get(key), torch.Tensor) and state[key].is_floating_point() for key in _MOMENTS):
            problem = f"no {' and '.join(_MOMENTS)} in floating point for {name}"
    if problem is not None:
        raise CheckpointError(
            f"the optimizer state in {origin} has {problem}",
            "start from its weights alone (start.source=..., start.keep=[weights]), or from another checkpoint",
        )
