"""What tests of kernels share."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """Begin with one thread of torch's; a test may ask for more, and the next begins as it did."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
