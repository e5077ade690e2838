"""The gradient of k microbatches on n ranks is the gradient of one big batch, through Composer itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("gradient_worker.py")


def one_step(out: Path, microbatch_blocks: int, ranks: int) -> dict:
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [*launcher, str(WORKER), str(out), str(microbatch_blocks)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out)


@pytest.mark.slow
@pytest.mark.world
@pytest.mark.composer
def test_microbatches_and_ranks_give_the_gradient_of_one_batch(tmp_path):
    whole = one_step(tmp_path / "whole.pt", 8, 1)
    largest = max(gradient.abs().max() for gradient in whole["gradients"].values())
    assert largest > 0.01
    for microbatch_blocks, ranks in ((3, 1), (1, 2)):
        cut = one_step(tmp_path / f"{microbatch_blocks}x{ranks}.pt", microbatch_blocks, ranks)
        assert cut["loss"] == pytest.approx(whole["loss"], rel=1e-6)
        assert len(cut["gradients"]) == len(whole["gradients"])
        for name, gradient in whole["gradients"].items():
            other = cut["gradients"][name.removeprefix("module.")]
            relative = (gradient - other).norm() / gradient.norm()
            assert relative < 1e-5, (microbatch_blocks, ranks, name, float(relative))
