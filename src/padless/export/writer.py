"""Writes the Hugging Face folder: whole and with equal logits, or not at all.

Everything goes into a hidden neighbour of the folder; only after transformers has loaded it and given our logits is it
renamed into place. A failure leaves nothing behind and an earlier export untouched.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from padless.config.schema import ModelConfig, RopeConfig
from padless.data.tokenise import SPECIALS, tokenizer_facts, tokenizer_file
from padless.errors import ModelError
from padless.events import reached
from padless.export.card import ModelCard, render_card
from padless.export.hf_config import DECODER_BIAS, hf_config
from padless.export.importer import TOKENIZER_HASH, WEIGHTS
from padless.export.parity import ParityResult, compare_with_transformers
from padless.model.tensor_shapes import check_state_dict, tensor_shapes
from padless.processes import started_ticks

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_EXPORTED = (WEIGHTS, "config.json", "padless.json", "README.md", *_TOKENIZER_FILES)  # an export's own files


def export_hf(
    state_dict: Mapping[str, Tensor],
    model: ModelConfig,
    rope: RopeConfig,
    tokenizer_folder: Path,
    out: Path,
    card: ModelCard,
    max_logit_difference: float,
) -> ParityResult:
    """Write ``out`` for ``transformers.AutoModelForMaskedLM`` and return how far its logits are from ours.

    Args:
        state_dict: weights by Hugging Face names, any device.
        model: their shape.
        rope: thetas they were last trained with.
        tokenizer_folder: folder with the tokenizer.json they were trained with.
        out: folder to write; an earlier export there is replaced.
        card: what the README says.
        max_logit_difference: largest difference of any logit that is still an export (fp32, CPU).

    Raises:
        ModelError: weights that do not fit, a tokenizer with more ids than the model, ``out`` is something else, or
            transformers gives other logits.
        DataError: the tokenizer is missing or lacks special tokens.
    """
    weights = {name: tensor.detach().to("cpu", torch.float32) for name, tensor in state_dict.items()}
    check_state_dict(weights, model, "the model to export")
    tokenizer_path = tokenizer_file(tokenizer_folder)
    facts = tokenizer_facts(tokenizer_path)
    refuse_taken(out)
    refuse_more_ids(facts.vocab_size, model)
    with new_folder(out) as partial:
        write_weights(partial, weights, model, rope, card.max_position_tokens, facts.special_ids)
        write_json(partial / "padless.json", {**_origin(card), TOKENIZER_HASH: facts.sha256})
        _write_tokenizer(partial, tokenizer_path, card.max_position_tokens)
        (partial / "README.md").write_text(render_card(card), encoding="utf-8")
        parity = compare_with_transformers(partial, weights, model, rope, facts.special_ids, card.max_position_tokens)
        require_parity(parity, max_logit_difference)
        reached("export")
    return parity


def _origin(card: ModelCard) -> dict[str, Any]:
    """Return what ``padless.json`` says of the training, for whoever continues from the folder."""
    return {
        "clock_tokens": card.clock_tokens,
        "phase": card.phase_name,
        "lr_share": card.lr_share,
        "lr_peak": card.lr_peak,
    }


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a hidden neighbour of ``out`` to write into, which takes its place if nothing is raised meanwhile.

    If something is, nothing is left: neither the neighbour nor folders that were made above it.

    Raises:
        ModelError: the folder cannot be written.
    """
    made = [each for each in (out.parent, *out.parent.parents) if not each.exists()]
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        _replace(out, partial)
        _remove_leftovers(out)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        _remove_empty(made)
        if isinstance(error, OSError):
            raise _unwritable(out, error) from error
        raise


def _unwritable(out: Path, error: Exception) -> ModelError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return ModelError(f"{out} cannot be written: {why}", "make it writable, free space, or choose another folder")


def _remove_empty(folders: list[Path]) -> None:
    """Delete folders, the innermost first, as far as nothing is in them."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def write_weights(
    folder: Path,
    weights: Mapping[str, Tensor],
    model: ModelConfig,
    rope: RopeConfig,
    max_position_tokens: int,
    special_ids: Mapping[str, int],
) -> None:
    """Write ``model.safetensors`` and ``config.json``; a decoder bias that is all zeros is left out of both."""
    kept = {name: weights[name].contiguous() for name in tensor_shapes(model)}
    has_bias = bool(kept[DECODER_BIAS].any())
    if not has_bias:
        del kept[DECODER_BIAS]
    try:
        save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"{WEIGHTS}: {error}") from error  # such as a full disk
    write_json(folder / "config.json", hf_config(model, rope, max_position_tokens, special_ids, has_bias))
    shutil.copymode(folder / "config.json", folder / WEIGHTS)  # safetensors makes files for their owner alone


def _remove_leftovers(out: Path) -> None:
    """Delete what exports that were killed left beside ``out``."""
    for path in out.parent.glob(f".{out.name}.*"):
        pid = path.name.removeprefix(f".{out.name}.").partition(".")[0]
        if path.suffix in (".partial", ".old") and pid.isdigit() and started_ticks(int(pid)) is None:
            shutil.rmtree(path, ignore_errors=True)


def require_parity(parity: ParityResult, max_logit_difference: float) -> None:
    """Refuse an export whose logits are not ours.

    Raises:
        ModelError: the difference is over the limit or not a number.
    """
    if not parity.max_abs_difference <= max_logit_difference:  # also refuses NaN
        raise ModelError(
            f"the export's logits differ from the model's by {parity.max_abs_difference:g} "
            f"(limit {max_logit_difference:g}; same best token at {parity.top1_agreement:.1%}); nothing was written",
            "report this with the versions in use; export.max_logit_difference is for rounding, not for this",
        )


def refuse_more_ids(vocab_size: int, model: ModelConfig) -> None:
    """Refuse a tokenizer with ids that the model has no rows for.

    Raises:
        ModelError: it has.
    """
    if vocab_size > model.vocab_size:
        raise ModelError(
            f"the tokenizer has {vocab_size} ids, the model's vocabulary is {model.vocab_size}",
            "export with the tokenizer the model was trained with",
        )


def refuse_taken(out: Path) -> None:
    """Refuse to write over what is not an export, or where nothing can be written.

    Raises:
        ModelError: ``out`` is something else, or it or what it is to be in is not writable.
    """
    try:
        is_export = (out / "config.json").is_file()
    except OSError as error:
        raise _unwritable(out, error) from error
    above = next((each for each in (out.absolute().parent, *out.absolute().parents) if each.exists()), out)
    if not above.is_dir():
        raise ModelError(f"{out} cannot be written: {above} is no folder", "choose another folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ModelError(f"{out} cannot be written: {above} is not writable", "choose another folder")
    if out.exists() and not is_export and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"{out} exists and is not an export", "choose another folder, or move this one away")


def refuse_own_source(out: Path, source: Path) -> None:
    """Refuse to write a folder over the one that it is made from.

    Raises:
        ModelError: they are the same, or the source lies in it.
    """
    place = out.resolve()
    if place == source.resolve() or place in source.resolve().parents:
        raise ModelError(f"{out} would take the place of its own source {source}", "choose another folder")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file as transformers writes its own."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_tokenizer(folder: Path, tokenizer_path: Path, max_position_tokens: int) -> None:
    shutil.copyfile(tokenizer_path, folder / "tokenizer.json")
    tokens = {f"{name}_token": token for name, token in SPECIALS.items()}
    settings = {
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": max_position_tokens,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **tokens,
    }
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "special_tokens_map.json", tokens)


def _replace(out: Path, partial: Path) -> None:
    """Put ``partial`` in the place of ``out``; between the two renames the old export lies beside it under its name."""
    for file in partial.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    _keep_others(out, partial)
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _keep_others(out: Path, partial: Path) -> None:
    """Copy what others put into an earlier export, such as a pooling of sentence-transformers; weights are replaced."""
    for entry in out.iterdir() if out.is_dir() else ():
        place = partial / entry.name
        if place.exists() or entry.name in _EXPORTED or entry.name.startswith("model.safetensors"):
            continue
        if entry.is_dir():
            shutil.copytree(entry, place, symlinks=True)
        else:
            shutil.copy2(entry, place, follow_symlinks=False)
