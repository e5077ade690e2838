"""Masked language model: the encoder, and the vocabulary projection on masked positions only.

Modules and parameters carry the names of Hugging Face's ``ModernBertForMaskedLM``; the decoder's weight is the token
embeddings', its bias its own.

Legend: T packed tokens, M masked positions, D model width, V vocabulary.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from padless.attention.in_pieces import TILE_ROWS
from padless.attention.select import get_backend
from padless.config.schema import ModelConfig, RopeConfig
from padless.data.batch import IGNORED, PackedBatch
from padless.model.encoder import Encoder
from padless.model.loss import Losses, cross_entropy
from padless.model.mlm_head import PredictionHead
from padless.model.tied import TiedGradient


def _in_whole_tiles(batch: PackedBatch) -> tuple[Tensor, Tensor]:
    """Return masked positions and labels, on a CPU filled up to whole tiles: few shapes, for which kernels are kept."""
    fill = -batch.labels_M.shape[0] % TILE_ROWS if batch.labels_M.device.type == "cpu" else 0
    return F.pad(batch.masked_positions_M, (0, fill)), F.pad(batch.labels_M, (0, fill), value=IGNORED)


class MaskedLM(nn.Module):
    """Encoder, head and tied decoder.

    A microbatch without a masked position is ordinary: its loss is 0 and every parameter gets a zero gradient, so that
    ranks stay in step.

    Args:
        model: shape; readable as ``config``.
        rope: thetas of this phase; readable as ``rope``.
        backend: name of the attention backend (:mod:`padless.attention.select`).
        z_loss: weight of the squared log-normaliser in :meth:`loss` (:mod:`padless.model.loss`); 0 leaves it out.

    Raises:
        ConfigError: the backend cannot be loaded here.
    """

    def __init__(self, model: ModelConfig, rope: RopeConfig, backend: str = "sdpa", z_loss: float = 0.0) -> None:
        super().__init__()
        self.config, self.z_loss = model, z_loss
        self.model = Encoder(model, rope, get_backend(backend))
        self.head = PredictionHead(model)
        self.decoder = nn.Linear(model.hidden_size, model.vocab_size, bias=True)
        self.decoder.weight = self.model.embeddings.tok_embeddings.weight
        self.last_row_losses_M: Tensor | None = None  # cross-entropies of the last forward pass, fp32 [M], detached
        self.last_cross_entropy: Tensor | None = None  # their mean, fp32 scalar, detached: what is logged

    @property
    def rope(self) -> RopeConfig:
        """The thetas this model computes with."""
        return self.model.rope

    def forward(self, batch: PackedBatch) -> Tensor:
        """Return :meth:`loss`, so that wrappers which call the module (DDP, FSDP) train it."""
        return self.loss(batch)

    def encode(self, batch: PackedBatch) -> Tensor:
        """Return hidden_TD of every token, after the final norm."""
        return self.model(batch)

    def logits(self, batch: PackedBatch) -> Tensor:
        """Return logits_TV at every position: for parity checks and evaluation, T x V values."""
        return self.decoder(self.head(self.encode(batch)))

    def logits_at(self, batch: PackedBatch) -> Tensor:
        """Return logits_MV at the masked positions."""
        return self.decoder(self.head(self._masked_hidden(batch)))

    def loss_sum(self, batch: PackedBatch) -> Tensor:
        """Return the cross-entropy summed over the ``batch.num_masked`` masked positions, in nats (fp32 scalar).

        It never has the z-loss in it: this is what validation reports.
        """
        return self._losses(batch, 0.0).total

    def loss(self, batch: PackedBatch) -> Tensor:
        """Return what training minimises, a mean over the masked positions in nats (fp32 scalar); 0 where none are.

        Cross-entropy plus ``z_loss`` times the squared log-normaliser. The first alone, which costs nothing more, is
        left in ``last_cross_entropy``; without z-loss the two are equal.
        """
        masked = max(batch.num_masked, 1)
        losses = self._losses(batch, self.z_loss)
        self.last_cross_entropy = losses.by_row_M.sum() / masked
        return losses.total / masked

    def _losses(self, batch: PackedBatch, z_loss: float) -> Losses:
        tied = TiedGradient()
        hidden_TD = self.model(batch, tied)
        positions_M, labels_M = _in_whole_tiles(batch)
        x_MD = self.head(hidden_TD.index_select(0, positions_M))
        losses = cross_entropy(x_MD, self.decoder.weight, self.decoder.bias, labels_M, tied=tied, z_loss=z_loss)
        self.last_row_losses_M = losses.by_row_M[: batch.labels_M.shape[0]]
        return losses

    def _masked_hidden(self, batch: PackedBatch) -> Tensor:
        return self.encode(batch).index_select(0, batch.masked_positions_M)
