"""Out of memory: which microbatch would fit, in words."""

import pytest
import torch
from torch import nn

from padless.errors import TrainingError
from padless.train.out_of_memory import asked_bytes, fitting_microbatches, fixed_bytes, out_of_memory, out_of_memory_on

GIB = 2**30


def test_torchs_message_tells_what_was_asked_for():
    text = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which ..."
    assert asked_bytes(text) == int(2.5 * GIB)
    assert asked_bytes("CUDA out of memory. Tried to allocate 20.00 MiB.") == 20 * 2**20
    assert asked_bytes("something else") == 0


def test_weights_gradients_and_moments_do_not_depend_on_the_microbatch():
    assert fixed_bytes(nn.Linear(10, 10, bias=False)) == 4 * 400


def test_only_divisors_of_the_quantum_that_are_estimated_to_fit_are_named():
    # 10 GiB fixed and 6 GiB a block with the margin: (80 - 10) / 6.9 = 10 blocks
    needed = 10 * GIB + 12 * 6 * GIB
    assert fitting_microbatches(12, 12, needed, 10 * GIB, 80 * GIB) == [1, 2, 3, 4, 6]
    assert fitting_microbatches(12, 8, needed, 10 * GIB, 80 * GIB) == [1, 2, 4, 8]
    assert fitting_microbatches(12, 12, needed, 10 * GIB, 25 * GIB) == [1, 2]
    assert fitting_microbatches(12, 12, needed, 10 * GIB, 12 * GIB) == []


def raised(*arguments):
    raise out_of_memory(*arguments)


def test_the_error_names_the_microbatch_the_memory_and_the_one_that_fits():
    message = (
        r"hardware.microbatch_blocks=12 does not fit the GPU: 78.0 GiB of 80.0 GiB were in use \(2.0 GiB for weights, "
        r"gradients and moments\) and 4.0 GiB more were asked for\n.*hardware.microbatch_blocks=6, which should fit "
        r"\(1, 2, 3, 4 too\); it does not change results"
    )
    with pytest.raises(TrainingError, match=message):
        raised(12, 12, 78 * GIB, 4 * GIB, 2 * GIB, 80 * GIB)


def test_where_none_is_estimated_to_fit_the_remedy_says_so():
    with pytest.raises(TrainingError, match=r"try hardware.microbatch_blocks=1 \(by estimate it does not fit either\)"):
        raised(2, 2, 79 * GIB, 40 * GIB, 70 * GIB, 80 * GIB)
    with pytest.raises(TrainingError, match=r"a block is the smallest microbatch: free the GPU"):
        raised(1, 2, 79 * GIB, 40 * GIB, 70 * GIB, 80 * GIB)


@pytest.mark.gpu
def test_a_device_that_is_full_is_described_by_itself():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda", torch.cuda.current_device())
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(1 << 45, dtype=torch.uint8, device=device)
    error = out_of_memory_on(device, caught.value, nn.Linear(4, 4), 4, 8)
    assert "and 32768.0 GiB more were asked for" in error.cause
