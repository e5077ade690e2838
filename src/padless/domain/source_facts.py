"""What a source says of itself that a run continuing it has to agree with: shape, thetas, lengths, tokenizer."""

import json
from dataclasses import dataclass
from pathlib import Path

from padless.checkpoint import open_checkpoint
from padless.config.schema import ModelConfig, RopeConfig
from padless.data.tokenise import tokenizer_facts, tokenizer_file
from padless.errors import CheckpointError, DataError, ModelError
from padless.export.card import max_position_tokens
from padless.export.composer_source import is_composer_checkpoint, outline_of_checkpoint
from padless.export.hf_config import model_config_from_hf
from padless.export.hub import fetch_tokenizer
from padless.export.importer import recorded_lr_peak
from padless.export.source import ResolvedSource, load_source
from padless.run_files import TOKENIZER
from padless.train.handover import SHAPE

_DROPOUTS = ("attention_out_dropout", "mlp_dropout", "embedding_dropout")
_PUBLISHED_MAX_TOKENS = 8192


@dataclass(frozen=True)
class SourceFacts:
    """What is read of a source before anything is prepared or trained."""

    model: ModelConfig
    rope: RopeConfig
    max_seq_len: int  # longest segment it was trained on
    tokenizer: Path  # tokenizer.json
    lr_peak: float | None  # of the phase it comes from, where it says so
    knows_dropout: bool  # a run's own config has what it was trained with, an exported one has zeros

    def overrides(self) -> list[str]:
        """Return the settings that give a run the source's shape."""
        fields = (*SHAPE, *_DROPOUTS) if self.knows_dropout else SHAPE
        return [f"model.{name}={getattr(self.model, name)}" for name in fields]


def read_source(source: ResolvedSource, tokenizer: Path | None) -> SourceFacts:
    """Return the facts of a source.

    Args:
        source: a checkpoint file or a Hugging Face folder.
        tokenizer: tokenizer.json or its folder, where the source's own is not with it.

    Raises:
        DataError: no tokenizer is with the source and none is given.
        CheckpointError: the file is not a checkpoint.
        ModelError: the weights are not of a model that padless has.
    """
    path = source.path
    if path.is_dir():
        hf = model_config_from_hf(path)
        positions = json.loads((path / "config.json").read_bytes()).get("max_position_embeddings")
        longest = positions if type(positions) is int and positions > 0 else _PUBLISHED_MAX_TOKENS
        own = path if (path / "tokenizer.json").is_file() else None
        lr_peak = recorded_lr_peak(path)
        return SourceFacts(hf.model, hf.rope, longest, _tokenizer(source, tokenizer or own), lr_peak, False)
    if is_composer_checkpoint(outline_of_checkpoint(path)):
        loaded, _ = load_source(source)
        hub = source.hub
        longest = (hub.max_seq_len if hub else None) or _PUBLISHED_MAX_TOKENS
        repo = hub.tokenizer_repo if hub else None
        own = fetch_tokenizer(repo) if repo and tokenizer is None else None
        return SourceFacts(loaded.model_config, loaded.rope, longest, _tokenizer(source, tokenizer or own), None, False)
    saved, config = open_checkpoint(path)
    name = saved.meta["phase"]
    beside = path.resolve().parent.parent.parent / TOKENIZER
    own = beside if (beside / "tokenizer.json").is_file() else Path(saved.meta["tokenizer_folder"])
    return SourceFacts(
        config.model,
        config.phases[name].rope,
        max_position_tokens(config, name),
        _tokenizer(source, tokenizer or own),
        config.phases[name].lr.peak,
        True,
    )


def check_source(source: ResolvedSource, facts: SourceFacts, keep: str) -> None:
    """Refuse weights that no run could go on with; all of them are read.

    Args:
        source: a checkpoint file or a Hugging Face folder.
        facts: of it.
        keep: ``weights`` or ``weights,optimizer``.

    Raises:
        CheckpointError: moments are to be kept and there are none, or the file is damaged.
        DataError: the tokenizer lacks a special token.
        ModelError: a weight is missing or not finite, or the tokenizer is not the one they were trained with.
    """
    loaded, moments = load_source(source)
    if "optimizer" in keep and moments is None:
        raise CheckpointError(
            f"keep={keep}, but {source.name} {loaded.moments_problem or 'holds weights only'}",
            "use keep=weights (the learning rate is then re-warmed)",
        )
    tokenizer = tokenizer_facts(facts.tokenizer)
    if loaded.tokenizer_sha256 not in (None, tokenizer.sha256):
        raise ModelError(
            f"{source.name} was trained with another tokenizer ({loaded.tokenizer_sha256[:12]}) than {facts.tokenizer} "
            f"({tokenizer.sha256[:12]})",
            "leave tokenizer= out where the source has its own, or give the tokenizer.json it was trained with",
        )
    if tokenizer.vocab_size > loaded.model_config.vocab_size:
        raise ModelError(
            f"{facts.tokenizer} has {tokenizer.vocab_size:_} ids, {source.name} {loaded.model_config.vocab_size:_}",
            "give the tokenizer.json it was trained with: tokenizer=...",
        )


def _tokenizer(source: ResolvedSource, folder: Path | None) -> Path:
    if folder is None:
        raise DataError(
            f"there is no tokenizer.json with {source.name}",
            "give the one that the weights were trained with: tokenizer=<tokenizer.json>",
        )
    return tokenizer_file(folder)
