"""Gated feed-forward, GeGLU (Shazeer 2020): Wo(gelu(input) * gate), where Wi puts out input and gate side by side.

Legend: T packed tokens, D model width, I GeGLU width.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from padless.config.schema import ModelConfig


class Mlp(nn.Module):
    """``Wi`` [2 I, D] (first half input, second half gate) and ``Wo`` [D, I], without biases."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.Wi = nn.Linear(model.hidden_size, 2 * model.intermediate_size, bias=False)
        self.drop = nn.Dropout(model.mlp_dropout)
        self.Wo = nn.Linear(model.intermediate_size, model.hidden_size, bias=False)

    def forward(self, hidden_TD: Tensor) -> Tensor:
        """Return the update of hidden_TD."""
        input_TI, gate_TI = self.Wi(hidden_TD).chunk(2, dim=-1)
        return self.Wo(self.drop(F.gelu(input_TI) * gate_TI))
