"""The prediction head before the decoder: norm(gelu(dense(x))).

Legend: M rows (masked positions, or all), D model width.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from padless.config.schema import ModelConfig
from padless.model.block import layer_norm


class PredictionHead(nn.Module):
    """``dense`` [D, D] without bias, exact gelu, ``norm``."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(model.hidden_size, model.hidden_size, bias=False)
        self.norm = layer_norm(model)

    def forward(self, hidden_MD: Tensor) -> Tensor:
        """Return what the decoder projects to the vocabulary."""
        return self.norm(F.gelu(self.dense(hidden_MD)))
