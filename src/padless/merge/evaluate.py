"""Validation of weights on the blocks and masks that a run's own configuration names, outside a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from padless.config.check import check_eval
from padless.config.load import load_config, to_plain, unknown_word
from padless.config.schema import Config, HardwareConfig, RopeConfig
from padless.data.preflight import open_data
from padless.errors import ConfigError, ModelError
from padless.model.masked_lm import MaskedLM
from padless.train.finish import make_validation
from padless.train.hardware import choose_compute
from padless.train.world import lone_world

_PREFIXES = ("data.streams.", "eval.")


@dataclass(frozen=True)
class Score:
    """How weights do on masked validation text."""

    loss: float  # nats a masked token
    accuracy: float  # share of masked tokens whose likeliest guess is right
    loss_by_stream: dict[str, float]  # empty where there is but one stream


def is_override(key: str) -> bool:
    """Return whether a key of the command line says what is evaluated on."""
    return key.startswith(_PREFIXES)


def evaluation_config(config: Config, overrides: Mapping[str, str]) -> Config:
    """Return a run's configuration as this machine evaluates with it: only the streams that validation reads.

    Args:
        config: as the run stored it.
        overrides: other places of the data, other ``eval`` settings, by their full names.

    Raises:
        ConfigError: an override is unknown or impossible, or there is nothing to evaluate on.
    """
    plain = to_plain(replace(config, hardware=_of_this_machine(config.hardware)))
    known = _names(plain)
    for key, value in overrides.items():
        if key not in known:
            raise unknown_word(f"{key}={value}", known, "write data.streams.<name>.local=... or eval.<setting>=...")
    changes = OmegaConf.from_dotlist([f"{key}={value}" for key, value in overrides.items()])
    changed = load_config(cast("DictConfig", OmegaConf.merge(OmegaConf.create(plain), changes)))
    check_eval(changed)
    if not changed.eval.streams:
        raise ConfigError(
            "eval.streams is empty: there is nothing to evaluate on",
            f"name some of {', '.join(changed.data.streams)}: eval.streams=[...] (or merge with evaluate=false)",
        )
    if changed.data.prepare_bundled:
        return changed
    read = {name: stream for name, stream in changed.data.streams.items() if name in changed.eval.streams}
    return replace(changed, phases={}, data=replace(changed.data, streams=read))


def _of_this_machine(hardware: HardwareConfig) -> HardwareConfig:
    """Return hardware settings that do not depend on the machine that trained."""
    return replace(
        hardware,
        device="auto",
        world_size=None,
        precision="auto",
        attention_backend="auto",
        allow_slow_attention=True,
        num_threads=None,
    )


def _names(plain: object, path: str = "") -> list[str]:
    if not isinstance(plain, Mapping):
        return [path] if path.startswith(_PREFIXES) else []
    return [name for key, item in plain.items() for name in _names(item, f"{path}.{key}" if path else str(key))]


class Evaluation:
    """Validation blocks, opened once, on which weights of one model are compared. One process, no training.

    Args:
        config: from :func:`evaluation_config`.
        rope: thetas that the weights were trained with.
        tokenizer_sha256: of the weights' tokenizer.
        say: prints one line.

    Raises:
        DataError: the validation data cannot be used.
        ModelError: it was made with another tokenizer.
    """

    def __init__(self, config: Config, rope: RopeConfig, tokenizer_sha256: str, say: Callable[[str], None]) -> None:
        world = lone_world()
        self._compute, lines = choose_compute(config, world)
        data = open_data(config, world, say)
        if data.tokenizer_sha256 != tokenizer_sha256:
            raise ModelError(
                f"the checkpoints were trained with another tokenizer ({tokenizer_sha256[:12]}) than the one of the "
                f"validation data ({data.tokenizer_sha256[:12]})",
                "give the data of their run: data.streams.<name>.local=...",
            )
        for line in lines:
            say(line)
        self._validation = make_validation(config, data, world, self._compute)
        self._model = MaskedLM(config.model, rope, self._compute.backend).to(self._compute.device).eval()

    def measure(self, weights: Mapping[str, Tensor]) -> Score:
        """Return how weights by Hugging Face names do."""
        self._model.load_state_dict(dict(weights))
        figures = self._validation.evaluate(self._model, with_accuracy=True)
        prefix = "eval_loss_"
        return Score(
            loss=figures["eval_loss"],
            accuracy=figures["eval_accuracy"],
            loss_by_stream={
                key.removeprefix(prefix): value for key, value in figures.items() if key.startswith(prefix)
            },
        )
