import copy
from dataclasses import replace

import pytest
import torch
from optimi import StableAdamW
from torch import nn

from padless.config.schema import OptimizerConfig
from padless.errors import CheckpointError
from padless.optim import build
from padless.optim.build import build_optimizer, load_optimizer_state, optimizer_state, set_schedule

CONFIG = OptimizerConfig(kind="stable_adamw", beta1=0.9, beta2=0.98, eps=1e-6)


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(8, 8, generator=generator))
        self.norm = nn.Parameter(torch.ones(8))
        self.bias = nn.Parameter(torch.zeros(8))


def gradients(step):
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(8, 8, generator=generator), *(torch.randn(8, generator=generator) for _ in range(2))]


def step(model, optimizer, number, lr=1e-2, peak=2e-2, decay=1e-2):
    for parameter, gradient in zip(model.parameters(), gradients(number), strict=True):
        parameter.grad = gradient.clone()
    set_schedule(optimizer, lr, peak, decay)
    optimizer.step()


def plain_stable_adamw(weight, all_gradients, lr, max_lr, decay):
    """Algorithm 2 of arXiv 2304.13013 with debiased betas and decay decoupled from the learning rate, in float64."""
    weight, moment, square = weight.double(), torch.zeros(weight.shape).double(), torch.zeros(weight.shape).double()
    for number, gradient in enumerate(all_gradients, 1):
        g = gradient.double()
        b1 = (0.9**number - 0.9) / (0.9**number - 1)
        b2 = (0.98**number - 0.98) / (0.98**number - 1)
        moment = b1 * moment + (1 - b1) * g
        square = b2 * square + (1 - b2) * g * g
        rms = (g * g / torch.clamp(square, min=1e-12)).mean().sqrt().item()
        clipped = lr / max(1.0, rms)
        weight = weight * (1 - clipped / max_lr * decay)
        weight = weight - clipped * moment / (square.sqrt() + 1e-6)
    return weight


@pytest.mark.parametrize(("name", "decay"), [("matrix", 1e-2), ("norm", 0.0), ("bias", 0.0)])
def test_it_is_stable_adamw_with_no_decay_on_norms_and_biases(name, decay):
    model = Tiny()
    index = ["matrix", "norm", "bias"].index(name)
    expected = plain_stable_adamw(
        getattr(model, name).detach(), [gradients(k)[index] for k in range(5)], 1e-2, 2e-2, decay
    )
    optimizer = build_optimizer(model, CONFIG, 2e-2, 1e-2, is_gpu=False)
    for number in range(5):
        step(model, optimizer, number)
    torch.testing.assert_close(getattr(model, name).detach().double(), expected, atol=1e-6, rtol=1e-5)


def test_saved_state_goes_on_bit_for_bit_and_takes_the_new_phase_peak():
    model = Tiny()
    optimizer = build_optimizer(model, CONFIG, 2e-2, 1e-2, is_gpu=False)
    for number in range(3):
        step(model, optimizer, number)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    saved = copy.deepcopy(optimizer_state(model, optimizer))
    for number in range(3, 6):
        step(model, optimizer, number, lr=3e-3, peak=3e-3)
    other = Tiny()
    other.load_state_dict(weights)
    resumed = build_optimizer(other, CONFIG, 3e-3, 1e-2, is_gpu=False)
    load_optimizer_state(other, resumed, saved, "a.pt")
    for number in range(3, 6):
        step(other, resumed, number, lr=3e-3, peak=3e-3)
    assert resumed.param_groups[0]["max_lr"] == 3e-3
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda saved: saved["group_steps"].clear(), r"step counters of groups \[\], not of \['0', '1'\]"),
        (lambda saved: next(iter(saved["moments"].values())).pop("exp_avg"), "no exp_avg and exp_avg_sq in floating"),
        (
            lambda saved: next(iter(saved["moments"].values())).update(exp_avg=torch.zeros(4, 4, dtype=torch.int32)),
            "no exp_avg and exp_avg_sq in floating point",
        ),
    ],
    ids=["counters", "missing", "whole numbers"],
)
def test_the_state_of_another_optimizer_is_refused_by_file(spoil, message):
    model = Tiny()
    optimizer = build_optimizer(model, CONFIG, 3e-3, 1e-2, is_gpu=False)
    step(model, optimizer, 0, lr=3e-3, peak=3e-3)
    saved = optimizer_state(model, optimizer)
    spoil(saved)
    with pytest.raises(CheckpointError, match=rf"the optimizer state in a\.pt has {message}"):
        load_optimizer_state(model, build_optimizer(model, CONFIG, 3e-3, 1e-2, is_gpu=False), saved, "a.pt")


class TwoMatrices(nn.Module):
    """One of several pieces and one of a few elements."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.large = nn.Parameter(torch.randn(300, 700, generator=generator))
        self.small = nn.Parameter(torch.randn(3, 5, generator=generator))


def test_the_cpu_optimizer_follows_torch_optimi():
    """Only the order of one sum differs: 20 steps, with and without clipping, to 1e-6 of values around 1."""
    mine, theirs = TwoMatrices(), TwoMatrices()
    settings = {"lr": 1e-2, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 1e-2, "max_lr": 2e-2}
    one = build_optimizer(mine, CONFIG, 2e-2, 1e-2, is_gpu=False)
    other = StableAdamW(theirs.parameters(), decouple_lr=True, triton=False, foreach=False, **settings)
    generator = torch.Generator().manual_seed(1)
    for number in range(20):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            a.grad = torch.randn(a.shape, generator=generator) * (30.0 if number == 10 else 1.0)
            b.grad = a.grad.clone()
        set_schedule(one, 1e-2, 2e-2, 1e-2)
        one.step()
        other.step()
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_state_saved_by_one_implementation_goes_on_in_the_other():
    """What torch-optimi keeps beside the moments is made anew, so that a run can move between CPU and GPU."""
    model, other = TwoMatrices(), TwoMatrices()
    optimizer = build_optimizer(model, CONFIG, 2e-2, 1e-2, is_gpu=False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    groups = [{"params": [*other.parameters()], "decays": True}, {"params": [], "decays": False}]
    elsewhere = StableAdamW(groups, lr=1e-2, triton=False, foreach=False)
    load_optimizer_state(other, elsewhere, optimizer_state(model, optimizer), "a.pt")
    state = elsewhere.state[other.large]
    assert torch.equal(state["exp_avg"], optimizer.state[model.large]["exp_avg"])
    assert float(state["eps_sq"]) > 0
    assert int(elsewhere.param_groups[0]["step"]) == 1


@pytest.mark.parametrize(
    ("kind", "lacking", "deterministic", "launches"),
    [
        ("stable_adamw", None, False, True),
        ("stable_adamw", "no compiler", False, False),
        ("stable_adamw", None, True, False),
        ("adamw", None, True, True),
        ("adamw", "no compiler", False, False),
    ],
)
def test_a_gpu_s_optimizer_launches_kernels_where_that_can_be_done_and_is_repeatable(
    monkeypatch, kind, lacking, deterministic, launches
):
    monkeypatch.setattr(build, "missing_to_launch", lambda: lacking)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    optimizer = build_optimizer(Tiny(), replace(CONFIG, kind=kind), 2e-2, 1e-2, is_gpu=True)
    assert [group["triton"] for group in optimizer.param_groups] == [launches] * 2


@pytest.mark.parametrize("kind", ["stable_adamw", "adamw"])
def test_what_a_gpu_does_without_kernels_are_the_cpu_s_steps(monkeypatch, kind):
    monkeypatch.setattr(build, "missing_to_launch", lambda: "no compiler")
    config, models = replace(CONFIG, kind=kind), [Tiny(), Tiny()]
    for model, is_gpu in zip(models, (False, True), strict=True):
        optimizer = build_optimizer(model, config, 2e-2, 1e-2, is_gpu)
        for number in range(4):
            step(model, optimizer, number)
    for ours, right in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, right, atol=1e-6, rtol=1e-6)
