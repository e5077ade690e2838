"""One linear layer over chunks of rows, forward and backward, for :mod:`padless.model.row_chunks`.

Products are torch's, or :mod:`padless.kernels.tiled_products` where the CPU has AMX and the widths are multiples of 32.

Legend: C rows of a chunk, E outputs, D inputs.
"""

from functools import cached_property

import torch
from torch import Tensor

from padless.kernels.native_rows import add
from padless.kernels.tiled_products import add_outer, in_words, multiply, woven
from padless.kernels.tiles import fits_tiles


class LinearRows:
    """A weight without bias, and the sum of its gradient.

    Args:
        weight_ED: in the compute dtype.
    """

    def __init__(self, weight_ED: Tensor) -> None:
        self.weight_ED = weight_ED
        self._in_tiles = all(fits_tiles(weight_ED.dtype, width) for width in weight_ED.shape)

    @cached_property
    def _words(self) -> Tensor:
        return in_words(self.weight_ED)

    @cached_property
    def _woven(self) -> Tensor:
        return woven(self.weight_ED)

    @cached_property
    def grad_ED(self) -> Tensor:
        """Gradient of the weight so far, fp32."""
        return torch.zeros(self.weight_ED.shape, dtype=torch.float32)

    def apply(self, x_CD: Tensor, out_CE: Tensor) -> Tensor:
        """Put x W^T into ``out_CE`` and return it."""
        if self._in_tiles:
            return multiply(x_CD, self._words, out_CE)
        return torch.mm(x_CD, self.weight_ED.t(), out=out_CE)

    def apply_and_add(self, x_CD: Tensor, residual_CE: Tensor, out_CE: Tensor) -> None:
        """Put x W^T + residual into ``out_CE``."""
        if self._in_tiles:
            multiply(x_CD, self._words, out_CE, residual_CE)
        else:
            add(residual_CE, x_CD @ self.weight_ED.t(), out_CE)

    def backward(self, grad_CE: Tensor) -> Tensor:
        """Return the gradient of x."""
        if self._in_tiles:
            return multiply(grad_CE, self._woven, grad_CE.new_empty((grad_CE.shape[0], self.weight_ED.shape[1])))
        return grad_CE @ self.weight_ED

    def add_gradient(self, grad_CE: Tensor, x_CD: Tensor) -> None:
        """Add up the gradient of the weight."""
        if self._in_tiles:
            add_outer(self.grad_ED, grad_CE, x_CD)
        elif grad_CE.dtype == torch.float32:
            self.grad_ED.addmm_(grad_CE.t(), x_CD)
        else:
            add(self.grad_ED, grad_CE.t() @ x_CD, self.grad_ED)
