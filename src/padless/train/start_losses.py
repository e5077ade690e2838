"""Before the first step of a grown model: the loss of its source and of a random start on the same validation text."""

from dataclasses import replace

import torch

from padless.config.schema import RopeConfig
from padless.model.growth import plan_growth
from padless.model.init import initialise
from padless.model.masked_lm import MaskedLM
from padless.model.tiling import tile_state_dict
from padless.train.growth import GrowthSource
from padless.train.hardware import Compute
from padless.train.validation import Validation


def start_losses(
    source: GrowthSource, rope: RopeConfig, seed: int, validation: Validation, compute: Compute
) -> dict[str, float]:
    """Return the validation losses (nats a masked token) of the source and of the random start that was tiled over.

    Args:
        source: what the run grows from; is computed with its own thetas.
        rope: thetas of the run's first phase.
        seed: the run's.
        validation: the text; all ranks take part.
        compute: device and precision.
    """
    loaded, target = source.loaded, source.growth.target
    random = MaskedLM(target, rope, compute.backend)
    initialise(random, seed)
    shape = replace(loaded.model_config, vocab_size=target.vocab_size)
    smaller = MaskedLM(shape, loaded.rope, compute.backend)
    initialise(smaller, seed)
    weights, _ = tile_state_dict(
        loaded.state_dict, smaller.state_dict(), plan_growth(loaded.model_config, shape)
    )  # the source as it is; with random rows where the target's vocabulary is larger
    smaller.load_state_dict(weights)
    losses = {}
    for name, model in {"source": smaller, "random": random}.items():
        with torch.no_grad():
            losses[name] = validation.evaluate(model.to(compute.device))["eval_loss"]
    return losses
