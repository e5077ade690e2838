"""What a GPU's optimizers have to compute, on the device that KERNEL_DEVICE names; run by test_adamw.py.

On a CPU under Triton's interpreter, which has to be asked for before Triton is imported.
"""

import copy
import os

import pytest
import torch
from torch import nn

from padless.config.schema import OptimizerConfig
from padless.optim.build import build_optimizer, load_optimizer_state, optimizer_state, set_schedule

DEVICE = os.environ["KERNEL_DEVICE"]


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.large = nn.Parameter(torch.randn(60, 700, generator=generator))
        self.norm = nn.Parameter(torch.ones(8))


def train(model, optimizer, numbers, device):
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        for parameter in model.parameters():
            gradient = torch.randn(parameter.shape, generator=generator) * (30.0 if number == 2 else 1.0)
            parameter.grad = gradient.to(device)
        set_schedule(optimizer, 1e-2, 2e-2, 1e-2)
        optimizer.step()


@pytest.mark.parametrize("kind", ["adamw", "stable_adamw"])
def test_both_devices_take_the_same_steps(kind):
    config = OptimizerConfig(kind=kind, beta1=0.9, beta2=0.98, eps=1e-6)
    mine, theirs = Parts(), Parts().to(DEVICE)
    train(mine, build_optimizer(mine, config, 2e-2, 1e-2, is_gpu=False), range(5), "cpu")
    train(theirs, build_optimizer(theirs, config, 2e-2, 1e-2, is_gpu=True), range(5), DEVICE)
    for ours, right in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours, right.cpu(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["adamw", "stable_adamw"])
def test_a_state_saved_on_one_device_goes_on_on_the_other(kind):
    config = OptimizerConfig(kind=kind, beta1=0.9, beta2=0.98, eps=1e-6)
    whole, model = Parts(), Parts()
    train(whole, build_optimizer(whole, config, 2e-2, 1e-2, is_gpu=False), range(6), "cpu")
    saved = None
    for turn, (is_gpu, device) in enumerate([(True, DEVICE), (False, "cpu"), (True, DEVICE)]):
        model = model.to(device)
        optimizer = build_optimizer(model, config, 2e-2, 1e-2, is_gpu=is_gpu)
        if saved is not None:
            load_optimizer_state(model, optimizer, saved, "a.pt")
        train(model, optimizer, range(2 * turn, 2 * turn + 2), device)
        saved = copy.deepcopy(optimizer_state(model, optimizer))
    for ours, right in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.cpu(), right, atol=1e-6, rtol=1e-6)
