"""Tile-based initialisation: start a large model from a small one (Rae et al. 2021; ModernBERT, appendix A.3).

Weights are tiled once, at Composer's INIT event of the first phase at clock 0, before parameters are distributed;
moments, and the losses of the source and of a random start beside the grown model's, at FIT_START. A resume never makes
this callback, so the source may be gone by then.
"""

from collections.abc import Callable
from pathlib import Path

from composer.core import Callback, State
from composer.loggers import Logger

from padless.config.schema import InitConfig
from padless.model.growth import describe_function, function_changes
from padless.model.layer_map import describe_layer_map
from padless.model.masked_lm import MaskedLM
from padless.model.tiling import SymmetryNoise, tile_moments, tile_state_dict
from padless.model.tiling_report import tiling_table
from padless.model.twins import Kind, count_copies, describe_copies
from padless.optim.build import load_optimizer_state
from padless.train.callbacks.record import StepRecord
from padless.train.growth import GrowthSource, write_growth
from padless.train.hardware import Compute
from padless.train.start_losses import start_losses
from padless.train.validation import Validation


class TiledInit(Callback):
    """Overwrites the model's random weights by tiles of a smaller model's.

    Args:
        model: the encoder with its head, randomly initialised.
        source: weights and shape of the smaller model, and the plan of the growth.
        init: symmetry noise, and where the source is.
        seed: the run's: of the random start, and of the noise.
        record: has the grown model's validation loss once fitting begins.
        validation: the text that losses are compared on.
        compute: device and precision.
        folder: the run's, gets ``growth.json``; None where another rank writes it.
        say: prints text.
    """

    def __init__(
        self,
        model: MaskedLM,
        source: GrowthSource,
        init: InitConfig,
        seed: int,
        record: StepRecord,
        validation: Validation,
        compute: Compute,
        folder: Path | None,
        say: Callable[[str], None],
    ) -> None:
        self._model, self._source, self._init, self._seed, self._record = model, source, init, seed, record
        self._validation, self._compute, self._folder, self._say = validation, compute, folder, say
        self._copies: dict[Kind, tuple[int, int]] = {}

    def init(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Tile, load, and print what became of every tensor."""
        if int(state.timestamp.token) != 0:
            raise RuntimeError("tiled initialisation is for clock 0 only")
        growth, noise_std = self._source.growth, self._init.symmetry_noise_std
        self._say(f"layers, target<-source: {describe_layer_map(growth.layer_map, growth.target.global_every_layers)}")
        noise = SymmetryNoise(noise_std, self._seed) if noise_std > 0 else None
        drawn = {name: tensor.cpu() for name, tensor in self._model.state_dict().items()}
        weights, rows = tile_state_dict(self._source.loaded.state_dict, drawn, growth, noise)
        self._model.load_state_dict(weights)
        self._say(tiling_table(rows))
        reasons = [*function_changes(growth), *([f"symmetry noise of {noise_std:g}"] if noise is not None else [])]
        if self._source.loaded.rope != self._model.rope:
            reasons.append("other RoPE thetas")
        self._say(describe_function(reasons))
        self._copies = count_copies(weights, growth.target)
        self._say(describe_copies(self._copies))

    def fit_start(self, state: State, logger: Logger) -> None:  # noqa: ARG002
        """Load tiled moments if they are asked for, and compare losses before the first step."""
        source = self._source
        if source.moments is not None:
            tiled = tile_moments(source.moments, source.growth)
            load_optimizer_state(self._model, state.optimizers[0], tiled, str(self._init.source))
            self._say("optimizer moments: tiled from the source's")
        losses: dict[str, float] = {}
        if self._record.eval_loss is not None:  # there is validation text
            losses = start_losses(source, self._model.rope, self._seed, self._validation, self._compute)
            losses["grown"] = self._record.eval_loss
            texts = [f"{name} {losses[name]:.4f}" for name in ("source", "grown", "random")]
            self._say(f"validation loss before the first step: {', '.join(texts)}")
        if self._folder is not None:
            facts = {"copies": self._copies, "losses": losses, "source": self._init.source}
            write_growth(self._folder, source.growth, facts)
