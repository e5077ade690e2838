"""Which tokenizer an import writes, and what can be said of whether it belongs to the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from padless.errors import CheckpointError, ModelError, PadlessError
from padless.export.composer_source import outline_of_checkpoint
from padless.export.importer import recorded_hash
from padless.export.source import ResolvedSource
from padless.export.tokenizer_files import TOKENIZER, TokenizerFiles, tokenizer_in, tokenizer_of
from padless.export.tokenizer_match import (
    name_other_reading,
    refuse_other_hash,
    refuse_other_ids,
    refuse_other_specials,
)

_GIVE = "give the one it was trained with: tokenizer=<tokenizer.json or its folder>"


@dataclass(frozen=True)
class ImportTokenizer:
    """The tokenizer that goes with imported weights."""

    files: TokenizerFiles | None
    special_ids: dict[str, int]  # cls, sep, pad, mask
    recorded: str | None  # SHA-256 of the tokenizer.json they were trained with, where it is known
    notes: tuple[str, ...] = ()  # what could not be judged


def tokenizer_for_import(
    resolved: ResolvedSource, config: Mapping[str, Any], vocab_size: int, given: Path | None
) -> ImportTokenizer:
    """Return the tokenizer that is given, or the source's own, after comparing it with what the source says.

    Args:
        resolved: the source.
        config: its config.json; empty for a checkpoint.
        vocab_size: rows of its embeddings.
        given: tokenizer.json or its folder.

    Raises:
        CheckpointError: there is none, or the one given is not there.
        DataError: it is not a tokenizer, or lacks a special token.
        ModelError: its ids are not those the weights were trained with.
    """
    recorded = recorded_hash(resolved.path) if resolved.path.is_dir() else None
    if given is not None:
        files, notes = _given(resolved, config, vocab_size, given, recorded)
        return ImportTokenizer(files, files.special_ids, files.sha256, notes)
    files, place = _own(resolved)
    if files is not None:
        if recorded is not None:
            refuse_other_hash(files, place, recorded)
        return ImportTokenizer(files, files.special_ids, files.sha256)
    if resolved.path.is_file():
        raise CheckpointError(f"{resolved.path} holds no tokenizer, and none lies beside it", _GIVE)
    return ImportTokenizer(None, _stated_ids(config, resolved.path), recorded)


def _given(
    resolved: ResolvedSource, config: Mapping[str, Any], vocab_size: int, place: Path, recorded: str | None
) -> tuple[TokenizerFiles, tuple[str, ...]]:
    """Return the tokenizer given, and notes on it."""
    name = f"tokenizer={place}"
    files = tokenizer_of(place)
    if files is None:
        raise CheckpointError(f"{name} is no tokenizer.json and no folder with one", "correct the path")
    if files.sha256 == recorded:  # which says nothing of the settings beside it
        refuse_other_specials(files, name, config, vocab_size)
        return files, ()
    try:
        own, own_place = _own(resolved)
        why = "the source has no tokenizer of its own"
    except PadlessError as error:
        own, own_place, why = None, "", f"of the source's own, {error.cause}"
    if own is not None and recorded in (None, own.sha256):
        refuse_other_ids(files, own, name, own_place)
        other = name_other_reading(files, own)
        return files, (f"{name} has the ids of {own_place}, but another {other}",) if other else ()
    if recorded is not None:
        refuse_other_hash(files, name, recorded)
    refuse_other_specials(files, name, config, vocab_size)
    ids = f"{files.vocab_size:_} ids, the model's vocabulary is {vocab_size:_}"
    return files, (f"whether the ids of {name} are the source's could not be compared: {why}; it has {ids}",)


def _own(resolved: ResolvedSource) -> tuple[TokenizerFiles | None, str]:
    """Return the tokenizer beside the source, in the checkpoint, or of the published model, and where it was."""
    path = resolved.path
    if path.is_dir():
        return tokenizer_of(path), str(path / TOKENIZER)
    beside = tokenizer_of(path.parent)
    if beside is not None:
        return beside, str(path.parent / TOKENIZER)
    inside = tokenizer_in(outline_of_checkpoint(path), path.name)
    if inside is not None:
        return inside, f"the tokenizer in {path.name}"
    repo = resolved.hub.tokenizer_repo if resolved.hub is not None else None
    if repo is None:
        return None, ""
    from padless.export.hub import fetch_tokenizer

    return tokenizer_of(fetch_tokenizer(repo)), f"the tokenizer of {repo}"


def _stated_ids(config: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Return the special ids that a folder without a tokenizer states."""
    ids = {name: config.get(f"{name}_token_id") for name in ("cls", "sep", "pad", "mask")}
    found = {name: each for name, each in ids.items() if type(each) is int}
    if len(found) < len(ids):
        raise ModelError(
            f"{path} has no tokenizer.json, and its config.json does not state cls, sep, pad and mask ids", _GIVE
        )
    return found
