"""Tile-based initialisation: start a large model from a small one (Rae et al. 2021; ModernBERT, appendix A.3).

Runs once, at Composer's INIT event of the first phase at clock 0, before parameters are distributed. A resume never
makes this callback, so the source may be gone by then.
"""

from collections.abc import Callable

from composer.core import Callback, State
from composer.loggers import Logger

from padless.config.schema import ModelConfig
from padless.export.importer import LoadedSource
from padless.model.layer_map import describe_layer_map, map_layers
from padless.model.masked_lm import MaskedLM
from padless.model.tiling import Scale, tile_state_dict, tiling_table


class TiledInit(Callback):
    """Overwrites the model's random weights by tiles of a smaller model's.

    Args:
        model: the encoder with its head, randomly initialised.
        config: its shape.
        source: weights and shape of the smaller model.
        scale: ``fan_in`` divides duplicated inputs by their multiplicity, ``published`` does not.
        say: prints text.
    """

    def __init__(
        self, model: MaskedLM, config: ModelConfig, source: LoadedSource, scale: Scale, say: Callable[[str], None]
    ) -> None:
        self._model, self._config, self._source, self._say = model, config, source, say
        self._scale: Scale = scale

    def init(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Tile, load, and print what became of every tensor."""
        if int(state.timestamp.token) != 0:
            raise RuntimeError("tiled initialisation is for clock 0 only")
        source, target = self._source.model_config, self._config
        layers = map_layers(
            source.num_layers, target.num_layers, source.global_every_layers, target.global_every_layers
        )
        self._say(f"layers, target<-source: {describe_layer_map(layers, target.global_every_layers)}")
        weights, rows = tile_state_dict(
            self._source.state_dict, self._source.model_config, self._model.state_dict(), self._config, self._scale
        )
        self._model.load_state_dict(weights)
        self._say(tiling_table(rows))
