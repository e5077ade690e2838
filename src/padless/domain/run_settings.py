"""What source, documents and wishes are as settings of ``train.py``, and whether these can be trained.

A setting that is wrong for any size of the documents is found before they are prepared, by a rehearsal at two sizes.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from padless.checkpoint.named import whole_checkpoints
from padless.config.check import check
from padless.config.compose import compose
from padless.config.schema import Config
from padless.config.stored import read_stored_yaml
from padless.domain.preparation import LONG_FROM, SHORT_CAP, shards_folder
from padless.domain.settings import DOMAIN, GENERAL, Continuation
from padless.domain.sizing import DomainSize, Sizing, size_run
from padless.domain.source_facts import SourceFacts
from padless.errors import CheckpointError, ConfigError
from padless.run_files import CONFIG

TRAIN = Path(__file__).parents[3] / "train.py"
_WORDS = ("true", "false", "null", "nan", "inf", "infinity", "yes", "no", "on", "off")  # that YAML or Hydra turn
_LARGE = 10**12  # tokens


def size(wanted: Continuation, recipe: Config, domain: DomainSize) -> Sizing:
    """Return the recipe's tokens and batches for the domain."""
    cut = wanted.ranks * recipe.hardware.microbatch_blocks
    phases = {name: recipe.phases[name] for name in recipe.phase_order}
    return size_run(phases, domain, wanted.domain_share, wanted.passes, wanted.block_tokens, cut)


def run_settings(wanted: Continuation, recipe: Config, facts: SourceFacts, cap: int, sizing: Sizing) -> list[str]:
    """Return everything that ``train.py`` is told.

    Args:
        wanted: the user's wishes, whose own settings come last and win.
        recipe: as it is, from :func:`padless.domain.settings.judge`.
        facts: of the source.
        cap: longest segment, in tokens.
        sizing: from :func:`size`.
    """
    workers = max(0, min(recipe.data.num_workers, (os.cpu_count() or 1) // wanted.ranks - 1))
    return [
        f"recipe={wanted.recipe}",
        f"run.name={quoted(wanted.name)}",
        f"run.folder={quoted(wanted.runs)}",
        f"start.source={quoted(wanted.source)}",
        f"start.keep=[{wanted.keep}]",
        *facts.overrides(),
        *_data_settings(wanted, cap),
        f"data.num_workers={workers}",
        *sizing.overrides,
        *(word for name in recipe.phase_order for word in _phase_settings(name, facts, cap, wanted.domain_share)),
        *wanted.settings,
    ]


def rate_line(config: Config, facts: SourceFacts) -> str:
    """Return the line that says each phase's peak learning rate beside the source's own."""
    rates = ", ".join(f"{config.phases[name].lr.peak:g} in {name}" for name in config.phase_order)
    if facts.lr_peak is not None:
        return f"peak learning rate: {rates}; the source was trained with {facts.lr_peak:g}"
    words = " ".join(f"phases.{name}.lr.peak=..." for name in config.phase_order)
    return f"peak learning rate: {rates}; the source does not say its own: {words} set another"


def rehearse(wanted: Continuation, recipe: Config, facts: SourceFacts) -> None:
    """Refuse a setting that no size of the documents would make right.

    Raises:
        ConfigError: the same is wrong with very little text and with very much.
    """
    cap = wanted.max_seq_len or min(facts.max_seq_len, wanted.block_tokens, SHORT_CAP)
    errors = [
        _error_of(run_settings(wanted, recipe, facts, cap, size(wanted, recipe, DomainSize(tokens, 1.0))), wanted.ranks)
        for tokens in (wanted.block_tokens, _LARGE)
    ]
    if errors[0] is not None and errors[1] is not None and errors[0].cause == errors[1].cause:
        raise errors[0]


def _error_of(settings: Sequence[str], ranks: int) -> ConfigError | None:
    try:
        check(compose(settings), ranks)
    except ConfigError as error:
        return error
    return None


def refuse_missing_gpus(wanted: Continuation, recipe: Config, num_gpus: int) -> None:
    """Refuse to prepare for a training that this machine could not begin.

    Raises:
        ConfigError: GPUs are asked for, and there are fewer than ranks.
    """
    if wanted.train and recipe.hardware.device == "gpu" and num_gpus < wanted.ranks:
        here = f"use ranks={num_gpus}" if num_gpus else "use hardware=cpu"
        raise ConfigError(
            f"hardware.device=gpu with ranks={wanted.ranks}, and this machine has {num_gpus} GPUs",
            f"{here}, or prepare only: train=false",
        )


def refuse_other_run(wanted: Continuation, recipe: Config) -> None:
    """Refuse the name of a run that trains something else: its checkpoints could not go on with this recipe.

    Raises:
        CheckpointError: there is one, with checkpoints.
    """
    folder = Path(wanted.runs) / wanted.name
    if not (folder / CONFIG).is_file() or not whole_checkpoints(folder):
        return
    try:
        old = read_stored_yaml(folder / CONFIG)
    except ConfigError:
        return  # the run itself says what is wrong with it
    if old.start.source is None or old.phase_order != recipe.phase_order:
        phases = ", ".join(old.phase_order)
        origin = f"from {old.start.source}" if old.start.source else "from random weights"
        raise CheckpointError(
            f"name={wanted.name}: {folder} is another run, {origin} with phases {phases}",
            f"choose another name, such as name={wanted.name}-{wanted.recipe}",
        )


def command_of(wanted: Continuation, settings: Sequence[str]) -> list[str]:
    """Return the command that trains."""
    launcher = [sys.executable]
    if wanted.ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc-per-node", str(wanted.ranks)]
    return [*launcher, str(TRAIN), *settings]


def _data_settings(wanted: Continuation, cap: int) -> list[str]:
    folder = shards_folder(wanted)
    return [
        f"data.streams.{DOMAIN}.local={quoted(str(folder / DOMAIN))}",
        f"data.streams.{GENERAL}.local={quoted(str(folder / GENERAL))}",
        f"data.prepare_bundled={str(wanted.general is None).lower()}",
        f"data.block_tokens={wanted.block_tokens}",
        f"eval.max_seq_len={cap}",
    ]


def _phase_settings(name: str, facts: SourceFacts, cap: int, share: float) -> list[str]:
    path = f"phases.{name}"
    streams = [f"{path}.streams.{DOMAIN}={share:g}", f"{path}.streams.{GENERAL}={1 - share:g}"]
    replay = streams if share < 1 else [f"~{path}.streams.{GENERAL}", f"{path}.streams.{DOMAIN}=1.0"]
    return [
        f"{path}.max_seq_len={cap}",
        *([f"{path}.allow_short_documents=true"] if cap > LONG_FROM else []),
        f"{path}.rope.global_theta={facts.rope.global_theta:g}",
        f"{path}.rope.local_theta={facts.rope.local_theta:g}",
        *([f"{path}.lr.peak={facts.lr_peak:g}"] if facts.lr_peak is not None else []),
        *replay,
    ]


def quoted(text: str) -> str:
    """Return a text as Hydra reads it back: quoted where it has more than plain characters, or would be no text."""
    is_plain = text.isascii() and all(character.isalnum() or character in "/._-@" for character in text)
    is_text = not text[:1].isdigit() and text[:1] not in "-." and text.lower() not in _WORDS
    if is_plain and (is_text or "/" in text):
        return text
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"
