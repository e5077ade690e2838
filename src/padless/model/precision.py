"""In which precision matrix products written by hand run: as autocast would run them.

Legend: T packed tokens, D model width.
"""

import torch
from torch import Tensor


def compute_dtype(hidden_TD: Tensor) -> torch.dtype:
    """Return the dtype of matrix products: autocast's, or the activations' own."""
    device_type = hidden_TD.device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return hidden_TD.dtype
