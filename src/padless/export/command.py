"""``padless export`` and the export at the end of a run: from weights and the run's config to a Hugging Face folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from padless.checkpoint import open_checkpoint
from padless.config.schema import Config
from padless.data.durable import sha256_of_file
from padless.errors import CheckpointError
from padless.export.card import card_from_run
from padless.export.composer_source import is_composer_checkpoint, outline_of_checkpoint
from padless.export.parity import ParityResult
from padless.export.run_facts import RunFacts, facts_of_run
from padless.export.writer import export_hf
from padless.run_files import TOKENIZER
from padless.saying import Say, silent


def export_from(
    state_dict: Mapping[str, Tensor],
    config: Config,
    phase_name: str,
    tokenizer_folder: Path,
    out: Path,
    clock_tokens: int,
    train_seconds: float | None,
    eval_loss: float | None,
    merged_from: Sequence[str] = (),
    run_folder: Path | None = None,
    licence: str | None = None,
) -> ParityResult:
    """Export weights that a run trained.

    Args:
        state_dict: weights by Hugging Face names.
        config: the run's.
        phase_name: phase the weights come from; its thetas are written.
        tokenizer_folder: folder with tokenizer.json.
        out: folder to write.
        clock_tokens: nominal tokens consumed.
        train_seconds: wall time of training so far, for the model card.
        eval_loss: last validation loss in nats, for the model card.
        merged_from: checkpoints that the weights are a mean of, for the model card.
        run_folder: the run's, whose lineage and metrics the model card tells; None where it is not there.
        licence: of the weights, as the hub writes it; None leaves it to whoever publishes them.

    Raises:
        ModelError: the weights do not fit the config or the export does not reproduce them.
    """
    return export_hf(
        state_dict,
        config.model,
        config.phases[phase_name].rope,
        tokenizer_folder,
        out,
        card_from_run(
            config,
            phase_name,
            clock_tokens,
            train_seconds,
            eval_loss,
            merged_from,
            facts_of_run(run_folder, clock_tokens) if run_folder is not None else RunFacts(),
            licence,
        ),
        config.export.max_logit_difference,
    )


def export_checkpoint(checkpoint: Path, out: Path, licence: str | None = None, say: Say = silent) -> ParityResult:
    """Export a checkpoint file of a run.

    Args:
        checkpoint: the .pt file.
        out: folder to write.
        licence: see :func:`export_from`.
        say: is told what is being done.

    Raises:
        CheckpointError: not a padless checkpoint, or one that does not say what it was trained with.
        ModelError: as :func:`export_from`.
    """
    _refuse_others(checkpoint, out)
    say(f"reading {checkpoint}")
    saved, config = open_checkpoint(checkpoint)
    say(f"writing {out} and comparing its logits in transformers with ours")
    return export_from(
        saved.model,
        config,
        saved.meta["phase"],
        _tokenizer_folder(checkpoint, saved.meta),
        out,
        saved.clock_tokens,
        saved.meta["train_seconds"],
        saved.meta.get("eval_loss"),
        merged_from=[f"{each['share']:.3g} x {Path(each['path']).name}" for each in saved.meta.get("merged_from", ())],
        run_folder=_run_folder(checkpoint),
        licence=licence,
    )


def _refuse_others(checkpoint: Path, out: Path) -> None:
    """Refuse what is to be imported, not exported: somebody else's checkpoint, or a folder."""
    remedy = f"write: padless import {checkpoint} out={out}"
    if checkpoint.is_dir():
        raise CheckpointError(f"{checkpoint} is a folder, not a checkpoint of a padless run", remedy)
    if not checkpoint.is_file():
        return
    try:
        outline = outline_of_checkpoint(checkpoint)
    except CheckpointError:
        return  # whoever opens it says what it is
    if is_composer_checkpoint(outline):
        raise CheckpointError(f"{checkpoint} is a checkpoint of another Composer trainer, not of a padless run", remedy)


def _run_folder(checkpoint: Path) -> Path:
    """Return the folder of the run that a checkpoint lies in, by its place: ``<run>/checkpoints/<phase>/``."""
    return next(iter(checkpoint.resolve().parents[2:3]), checkpoint.parent)  # none above a file near the root


def _tokenizer_folder(checkpoint: Path, meta: Mapping[str, object]) -> Path:
    """Return the tokenizer copy in the checkpoint's run folder, which may have moved, or where it was at saving."""
    beside = _run_folder(checkpoint) / TOKENIZER
    folder = beside if beside.is_dir() else Path(str(meta["tokenizer_folder"]))
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"the tokenizer of {checkpoint} is neither in {beside} nor in {folder}",
            "copy the run folder as a whole, with its tokenizer/",
        )
    if meta.get("tokenizer_sha256") not in (None, sha256_of_file(path)):
        raise CheckpointError(
            f"{path} is not the tokenizer {checkpoint} was trained with", "put the run's own tokenizer/ back"
        )
    return folder
