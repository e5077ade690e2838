"""A whole run on a GPU: all phases, a stop and a resume within, the moments from a file, the export."""

import pytest
import torch
from here import run_here
from runs import metrics, overrides, steps

from padless.checkpoint import load_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.composer]

BACKENDS = {"bf16": ("varlen", "sdpa"), "fp16": ("sdpa",), "fp32": ("sdpa",)}


@pytest.fixture
def device() -> str:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return "gpu"


def run_in_two(folder, device: str, precision: str, backend: str) -> str:
    """Run to the middle of the second phase, then to the end; return what the second run printed."""
    settings = {
        "hardware.device": device,
        "hardware.precision": precision,
        "hardware.attention_backend": backend,
    }
    run_here(overrides(folder, **settings, **{"run.stop_after_tokens": 60_000}))
    return run_here(overrides(folder, **settings))


@pytest.mark.parametrize(("precision", "backend"), [(each, name) for each in BACKENDS for name in BACKENDS[each]])
def test_a_run_trains_stops_resumes_and_exports(tmp_path, device, precision, backend):
    if precision == "bf16" and device == "gpu" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("bf16 needs a compute capability of 8.0 or more")
    second = run_in_two(tmp_path, device, precision, backend)
    assert "resumed phase" in second
    assert "exported" in second
    lines = steps(tmp_path / "smoke")
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    evaluated = [line["eval_loss"] for line in metrics(tmp_path / "smoke") if "eval_loss" in line]
    assert evaluated[-1] < evaluated[0]
    newest = max((tmp_path / "smoke").glob("checkpoints/*/*.pt"), key=lambda path: load_checkpoint(path).clock_tokens)
    state = load_checkpoint(newest)
    assert {tensor.device.type for tensor in state.model.values()} == {"cpu"}
    assert all(tensor.isfinite().all() for tensor in state.model.values())
