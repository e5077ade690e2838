"""Which backend runs, and what the user is told."""

import pytest
import torch

from padless.attention import select
from padless.attention.select import choose_backend, get_backend
from padless.errors import ConfigError


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], flash_installed: bool) -> None:
    """Answers of torch and of the package index on a machine with that GPU."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    find_spec = select.importlib.util.find_spec
    monkeypatch.setattr(
        select.importlib.util,
        "find_spec",
        lambda name: (object() if flash_installed else None) if name == "flash_attn" else find_spec(name),
    )


def test_a_cpu_takes_sdpa_and_says_what_a_faster_one_needs() -> None:
    backend, line = choose_backend("auto", "cpu", 10**13, allow_slow=False)
    assert backend == "sdpa"
    assert line == (
        "attention: sdpa (chosen); a faster one (varlen, flash) needs a CUDA GPU of compute capability 8.0 or more "
        "and bf16; here: the device is cpu, not a CUDA GPU"
    )
    assert choose_backend("reference", "cpu", 10**13, allow_slow=False)[0] == "reference"


def test_a_gpu_takes_varlen(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, (9, 0), flash_installed=True)
    assert choose_backend("auto", "cuda", 10**13, False) == ("varlen", "attention: varlen (chosen)")
    assert choose_backend("flash", "cuda", 10**13, False) == ("flash", "attention: flash (as asked)")


def test_a_gpu_whose_torch_has_no_flash_attention_takes_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, (9, 0), flash_installed=True)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    assert choose_backend("auto", "cuda", 10**13, False)[0] == "flash"
    with pytest.raises(ConfigError, match="this torch was built without FlashAttention"):
        choose_backend("varlen", "cuda", 10**6, False)


def test_sdpa_asked_for_on_a_gpu_names_the_faster_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, (9, 0), flash_installed=False)
    _, line = choose_backend("sdpa", "cuda", 10**9, False)
    assert line == "attention: sdpa (as asked); faster here: hardware.attention_backend=varlen"


@pytest.mark.parametrize(("capability", "half_precision"), [((7, 5), True), ((9, 0), False)])
def test_a_long_run_on_a_slow_backend_is_refused_unless_allowed(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], half_precision: bool
) -> None:
    pretend_gpu(monkeypatch, capability, flash_installed=True)
    assert choose_backend("auto", "cuda", 10**9, False, half_precision)[0] == "sdpa"
    with pytest.raises(ConfigError, match=r"sdpa on a GPU is too slow for 1T tokens .*(fp32|below 8\.0)"):
        choose_backend("auto", "cuda", 10**12, False, half_precision)
    assert choose_backend("auto", "cuda", 10**12, True, half_precision)[0] == "sdpa"


@pytest.mark.parametrize("asked", ["varlen", "flash"])
def test_a_kernel_that_cannot_run_here_is_refused_with_the_reason(asked: str) -> None:
    with pytest.raises(ConfigError, match=f"attention_backend={asked} cannot run here: the (device|package)"):
        choose_backend(asked, "cpu", 10**6, True)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigError, match="attention_backend=fast does not exist"):
        choose_backend("fast", "cpu", 10**6, False)
    with pytest.raises(ConfigError, match="attention backend 'fast' does not exist"):
        get_backend("fast")


@pytest.mark.parametrize("name", select.BACKENDS)
def test_every_backend_loads_without_its_kernel(name: str) -> None:
    assert callable(get_backend(name))
