"""What a run begins with, or an import reads, from the words that name it: ``start.source=``, ``init.source=``.

a path                       a checkpoint file (padless's or Composer's) or a Hugging Face folder; always first
<run>@latest                 the newest whole checkpoint of a run, by its folder or its name under runs/
<run>/<phase>@<tokens>       the run's checkpoint at that clock, such as runs/base/anneal@1_351_680 or 1.35M
modernbert-base@extended     a short name of :mod:`padless.export.known_models`
owner/name[@revision]        a model on the Hugging Face hub
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padless.checkpoint import open_checkpoint
from padless.checkpoint.named import checkpoint_by_name
from padless.errors import CheckpointError
from padless.export.composer_source import (
    is_composer_checkpoint,
    load_composer_checkpoint,
    outline_of_checkpoint,
    refuse_sharded,
)
from padless.export.importer import LoadedSource, load_hf_folder
from padless.export.known_models import HubSource, hub_source, name_nearest
from padless.export.near_names import nearest_checkpoint, refuse_near_checkpoint, refuse_run_folder


@dataclass(frozen=True)
class ResolvedSource:
    """Where the files are that a name stands for."""

    name: str  # as it was given
    path: Path
    hub: HubSource | None = None  # where they came from

    @property
    def origin(self) -> str:
        """The name, and what it stood for at this time."""
        if self.hub is None:
            return self.name if str(self.path) == self.name else f"{self.name} ({self.path})"
        from padless.export.hub import revision_of

        inside = f" {self.hub.file or self.path.name}" if self.path.is_file() else ""
        return f"{self.name} ({self.hub.repo}@{revision_of(self.path) or self.hub.revision}{inside})"


def resolve_source(name: str) -> ResolvedSource:
    """Return the local files that ``name`` stands for, downloading what is on the hub.

    Raises:
        CheckpointError: nothing has this name, it is the folder of a run or nearly the name of a checkpoint, or the hub
            cannot be reached and the files are not here.
    """
    if os.path.exists(name):  # noqa: PTH110 - a name too long for a path is no path, where pathlib raises
        refuse_run_folder(Path(name))
        return ResolvedSource(name, Path(name))
    own = checkpoint_by_name(name)
    if own is not None:
        return ResolvedSource(name, own)
    refuse_near_checkpoint(name)
    hub = hub_source(name)
    if hub is None:
        near = nearest_checkpoint(name) or name_nearest(name)
        raise CheckpointError(
            f"source {name} is neither a checkpoint file nor a Hugging Face folder, and no model is known by this name",
            f"{f'did you mean {near}? Or ' if near else ''}give a .pt file from a run's checkpoints/ folder, a folder "
            "with config.json and weights, or owner/name@revision of the hub",
        )
    from padless.export.hub import fetch_file, fetch_folder  # huggingface_hub takes its time

    is_file = hub.file is not None or hub.newest_in is not None
    try:
        return ResolvedSource(name, fetch_file(hub) if is_file else fetch_folder(hub), hub)
    except CheckpointError as error:
        near = nearest_checkpoint(name)
        if near is None:
            raise
        raise CheckpointError(error.cause, f"did you mean {near}? Or {error.remedy}") from error


def load_source(source: str | ResolvedSource) -> tuple[LoadedSource, dict[str, Any] | None]:
    """Return weights, shape and thetas of a source, and its moments if it has any. Nothing in its files is run.

    Args:
        source: its name, or what :func:`resolve_source` made of it.

    Raises:
        CheckpointError: there is no such file or folder, or it cannot be read as one.
        ModelError: its weights are not those of a model that padless has.
    """
    path = (resolve_source(source) if isinstance(source, str) else source).path
    if path.is_dir():
        refuse_sharded(path)
        return load_hf_folder(path), None
    outline = outline_of_checkpoint(path)
    if is_composer_checkpoint(outline):
        return load_composer_checkpoint(path, outline)
    saved, config = open_checkpoint(path)
    phase = config.phases[saved.meta["phase"]]
    loaded = LoadedSource(
        state_dict=saved.model,
        model_config=config.model,
        rope=phase.rope,
        tokenizer_sha256=saved.meta["tokenizer_sha256"],
        tokens_seen=saved.clock_tokens,
    )
    return loaded, saved.optimizer
