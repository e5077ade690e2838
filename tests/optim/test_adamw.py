"""AdamW: torch's own arithmetic, the decay of StableAdamW, and one saved state for both kinds and both devices."""

import copy
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from optimi import AdamW
from torch import nn

from padless.config.compose import compose
from padless.config.schema import OptimizerConfig
from padless.optim.build import build_optimizer, load_optimizer_state, optimizer_state, set_schedule
from padless.optim.in_cache import InCacheAdamW, InCacheStableAdamW

ADAMW = OptimizerConfig(kind="adamw", beta1=0.9, beta2=0.98, eps=1e-6)
STABLE = OptimizerConfig(kind="stable_adamw", beta1=0.9, beta2=0.98, eps=1e-6)
CHECKS = Path(__file__).with_name("triton_checks.py")


class Parts(nn.Module):
    """A matrix of several pieces, a small one, a norm and a bias."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.large = nn.Parameter(torch.randn(300, 700, generator=generator))
        self.small = nn.Parameter(torch.randn(3, 5, generator=generator))
        self.norm = nn.Parameter(torch.ones(8))
        self.bias = nn.Parameter(torch.zeros(8))


def give_gradients(model, number, scale=1.0):
    generator = torch.Generator().manual_seed(number)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * scale


def train(model, optimizer, numbers, lr=1e-2, peak=2e-2, decay=1e-2):
    for number in numbers:
        give_gradients(model, number, 30.0 if number == 4 else 1.0)
        set_schedule(optimizer, lr, peak, decay)
        optimizer.step()


def test_it_is_torch_s_adamw_with_decay_by_the_share_of_the_peak_and_none_on_norms_and_biases():
    """Moments without bias against corrected ones: 10 steps, one with a jump, to 1e-6 of values around 1."""
    mine, theirs = Parts(), Parts()
    optimizer = build_optimizer(mine, ADAMW, 2e-2, 1e-2, is_gpu=False)
    decayed, others = [theirs.large, theirs.small], [theirs.norm, theirs.bias]
    groups = [{"params": decayed, "weight_decay": 1e-2 / 2e-2}, {"params": others, "weight_decay": 0.0}]
    torchs = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.98), eps=1e-6)
    for number in range(10):
        train(mine, optimizer, [number])
        give_gradients(theirs, number, 30.0 if number == 4 else 1.0)
        torchs.step()
    for ours, right in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours, right, atol=1e-6, rtol=1e-6)


def test_a_value_of_weight_decay_means_the_same_for_both_kinds():
    for config in (ADAMW, STABLE):
        with_decay, without = Parts(), Parts()
        for model, decay in ((with_decay, 0.1), (without, 0.0)):
            train(model, build_optimizer(model, config, 2e-2, decay, is_gpu=False), [0], decay=decay)
        # At the first step the two kinds are one: gradients are as large as their second moment.
        shrunk = without.large - 0.1 * (1e-2 / 2e-2) * Parts().large
        torch.testing.assert_close(with_decay.large, shrunk, atol=1e-6, rtol=1e-6)


def test_only_stable_adamw_holds_a_jump_back():
    moved = {}
    for kind, config in (("adamw", ADAMW), ("stable_adamw", STABLE)):
        model = Parts()
        optimizer = build_optimizer(model, config, 2e-2, 0.0, is_gpu=False)
        train(model, optimizer, range(4), decay=0.0)
        before = model.large.detach().clone()
        train(model, optimizer, [4], decay=0.0)  # gradients 30 times as large
        moved[kind] = float((model.large - before).abs().mean())
    assert moved["stable_adamw"] < 0.7 * moved["adamw"]


def test_a_saved_state_goes_on_bit_for_bit():
    model = Parts()
    optimizer = build_optimizer(model, ADAMW, 2e-2, 1e-2, is_gpu=False)
    train(model, optimizer, range(3))
    weights, saved = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer_state(model, optimizer))
    train(model, optimizer, range(3, 7))
    other = Parts()
    other.load_state_dict(weights)
    resumed = build_optimizer(other, ADAMW, 2e-2, 1e-2, is_gpu=False)
    load_optimizer_state(other, resumed, saved, "a.pt")
    train(other, resumed, range(3, 7))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_state_goes_on_in_torch_optimi_and_back():
    """A run that moves from a CPU to a GPU and back: 3 steps each against 9 on a CPU, to rounding."""
    model, whole = Parts(), Parts()
    train(whole, build_optimizer(whole, ADAMW, 2e-2, 1e-2, is_gpu=False), range(9))
    saved = None
    for turn in range(3):
        if turn == 1:
            decayed, others = [model.large, model.small], [model.norm, model.bias]
            optimizer = AdamW(
                [{"params": decayed, "decays": True}, {"params": others, "decays": False, "weight_decay": 0.0}],
                lr=2e-2, betas=(0.9, 0.98), eps=1e-6, weight_decay=1e-2, decouple_lr=True, max_lr=2e-2, triton=False,
                foreach=False,
            )  # fmt: skip
        else:
            optimizer = build_optimizer(model, ADAMW, 2e-2, 1e-2, is_gpu=False)
        if saved is not None:
            load_optimizer_state(model, optimizer, saved, "a.pt")
        train(model, optimizer, range(3 * turn, 3 * turn + 3))
        saved = copy.deepcopy(optimizer_state(model, optimizer))
    for ours, right in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, right, atol=1e-6, rtol=1e-6)


def test_the_two_kinds_keep_the_same_moments_so_that_a_branch_may_change_the_kind():
    states = []
    for config in (ADAMW, STABLE):
        model = Parts()
        optimizer = build_optimizer(model, config, 2e-2, 1e-2, is_gpu=False)
        train(model, optimizer, range(5))
        states.append(optimizer_state(model, optimizer))
    assert states[0]["group_steps"] == states[1]["group_steps"]
    for name, state in states[0]["moments"].items():
        for key, moment in state.items():
            assert torch.equal(moment, states[1]["moments"][name][key]), (name, key)


@pytest.mark.parametrize(("choice", "kind"), [("stable_adamw", InCacheStableAdamW), ("adamw", InCacheAdamW)])
def test_the_configured_kind_is_the_one_that_is_built(choice, kind):
    config = compose([f"optimizer={choice}"])
    optimizer = build_optimizer(Parts(), config.optimizer, 2e-2, 1e-2, is_gpu=False)
    assert type(optimizer) is kind
    assert (config.optimizer.beta1, config.optimizer.beta2, config.optimizer.eps) == (0.9, 0.98, 1e-6)


def run_checks(device):
    env = {**os.environ, "KERNEL_DEVICE": device, "TRITON_INTERPRET": "1" if device == "cpu" else "0"}
    env.pop("PYTEST_ADDOPTS", None)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", str(CHECKS)]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "4 passed" in run.stdout, run.stdout


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_gpus_optimizers_follow_the_cpus_under_triton_s_interpreter():
    run_checks("cpu")


@pytest.mark.gpu
def test_the_gpus_optimizers_follow_the_cpus_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    run_checks("cuda")
