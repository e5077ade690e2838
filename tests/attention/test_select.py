"""Which backend runs, and what the user is told."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from padless.attention import select
from padless.attention.select import Machine, choose_backend, choose_for, get_backend, has_kernels_for, look_at_machine
from padless.errors import ConfigError

# GPUs by name and compute capability, the architectures that the builds of torch 2.7.0 and 2.14.1 name, and what of the
# kernels each version has. The GPUs' names and capabilities are their maker's; the rest was read from the two builds.
RECORDS = json.loads(Path(__file__).with_name("machines.json").read_text())


def machine_of(record: dict[str, Any]) -> Machine:
    fields = dict(record["machine"])
    fields["architectures"] = tuple(fields["architectures"])
    fields["capability"] = None if fields["capability"] is None else tuple(fields["capability"])
    return Machine(**fields)


def name_of(record: dict[str, Any]) -> str:
    machine = record["machine"]
    words = (machine["device_name"] or "cpu", machine["torch_version"], record["dtype"], record["requested"])
    return "-".join(words).replace(" ", "_")


def choose(record: dict[str, Any]) -> tuple[str, str]:
    is_half = record["dtype"] in ("bf16", "fp16")
    return choose_for(machine_of(record), record["requested"], record["total_tokens"], record["allow_slow"], is_half)


@pytest.mark.parametrize("record", [each for each in RECORDS if "backend" in each], ids=name_of)
def test_the_choice_on_recorded_machines(record: dict[str, Any]) -> None:
    assert choose(record) == (record["backend"], record["line"])


@pytest.mark.parametrize("record", [each for each in RECORDS if "error" in each], ids=name_of)
def test_what_is_refused_on_recorded_machines(record: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=record["error"]):
        choose(record)


def test_this_machine_is_looked_at() -> None:
    machine = look_at_machine("cpu")
    assert machine.torch_version == torch.__version__
    assert (machine.device_name, machine.capability, machine.architectures) == (None, None, ())
    backend, line = choose_backend("auto", "cpu", 10**13, allow_slow=False)
    assert backend == "blocked"
    assert line == "attention: blocked (chosen)"
    assert choose_backend("sdpa", "cpu", 10**13, allow_slow=False)[1].endswith("hardware.attention_backend=blocked")
    assert choose_backend("reference", "cpu", 10**13, allow_slow=False)[0] == "reference"


def test_a_gpu_is_described_by_what_torch_says_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90a"])
    machine = look_at_machine("cuda")
    assert (machine.device_name, machine.capability, machine.architectures) == (
        "NVIDIA L4",
        (8, 9),
        ("sm_80", "sm_90a"),
    )


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 6), ("sm_80",), True),
        ((8, 0), ("sm_86",), False),
        ((9, 0), ("sm_80",), False),
        ((9, 0), ("sm_80", "compute_80"), True),
        ((7, 5), ("sm_80", "compute_80"), False),
        ((12, 1), ("sm_120",), True),
        ((9, 0), ("sm_90a",), False),
        (None, (), True),
        ((9, 4), ("gfx90a", "gfx942"), True),
    ],
)
def test_a_build_runs_on_its_generation_and_compiles_for_later_ones(
    capability: tuple[int, int] | None, architectures: tuple[str, ...], runs: bool
) -> None:
    device = "cpu" if capability is None else "cuda"
    machine = Machine("2.7.0", device, None, capability, architectures, True, False, False)
    assert has_kernels_for(machine) is runs


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


def test_the_backend_for_cpus_is_refused_elsewhere() -> None:
    machine = machine_of(next(each for each in RECORDS if each["machine"]["device_type"] == "cuda"))
    with pytest.raises(ConfigError, match="blocked is for a CPU, and the device is cuda"):
        choose_for(machine, "blocked", 1_000, allow_slow=True, half_precision=True)


@pytest.mark.parametrize(
    ("width", "flash_installed", "backend"),
    [(64, False, "varlen"), (256, False, "varlen"), (20, False, "sdpa"), (20, True, "flash"), (264, True, "sdpa")],
)
def test_heads_that_a_kernel_does_not_take_go_another_way(width: int, flash_installed: bool, backend: str) -> None:
    """mha_varlen_fwd refuses them at the first step: a width of at most 256, in torch's kernel a multiple of 8."""
    h100 = Machine("2.7.0", "cuda", "NVIDIA H100 80GB HBM3", (9, 0), ("sm_90",), True, False, flash_installed)
    assert choose_for(h100, "auto", 1_000, False, True, width)[0] == backend
    if width == 20:
        with pytest.raises(ConfigError, match="varlen cannot run here: the model's heads are 20 wide"):
            choose_for(h100, "varlen", 1_000, False, True, width)
