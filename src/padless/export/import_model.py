"""``padless import``: anything that a run can begin with, as a Hugging Face folder that loads everywhere.

name -> files (paths, runs, the hub) -> weights, shape, thetas, read without running anything
     -> our logits = those of transformers with the source's own files
     -> config, safetensors, tokenizer -> transformers loads what was written and gives our logits -> in its place
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from padless.config.plain_yaml import without_aliases
from padless.config.schema import ModelConfig, RopeConfig
from padless.errors import CheckpointError
from padless.export.command import export_checkpoint
from padless.export.composer_source import is_composer_checkpoint, outline_of_checkpoint
from padless.export.fill_mask import FilledMask, fill_example
from padless.export.import_card import render_import_card
from padless.export.import_check import check_import
from padless.export.import_tokenizer import tokenizer_for_import
from padless.export.importer import TOKENIZER_HASH, LoadedSource, recorded_facts
from padless.export.parity import ParityResult, compare_with_transformers
from padless.export.source import ResolvedSource, load_source, resolve_source
from padless.export.writer import (
    new_folder,
    refuse_more_ids,
    refuse_own_source,
    refuse_taken,
    require_parity,
    write_json,
    write_weights,
)
from padless.saying import Say, silent

MAX_LOGIT_DIFFERENCE = 1e-4
_MAX_JSON_BYTES = 1 << 20


@dataclass(frozen=True)
class Imported:
    """What came in."""

    origin: str
    model: ModelConfig
    rope: RopeConfig
    tokens_seen: int | None
    moments: str  # whether a run could keep the source's
    max_position_tokens: int
    has_tokenizer: bool
    parity: ParityResult  # of what was written
    filled: FilledMask | None
    notes: tuple[str, ...] = ()  # what could not be judged, or contradicts what the source says


def import_model(
    name: str, out: Path, tokenizer: Path | None = None, max_seq_len: int | None = None, say: Say = silent
) -> Imported:
    """Write the source called ``name`` as a Hugging Face folder.

    Args:
        name: see :mod:`padless.export.source`.
        out: folder to write; an earlier export there is replaced.
        tokenizer: tokenizer.json or its folder, where the source has none or another is right.
        max_seq_len: longest segment it was trained on, where the source does not say.
        say: is told what is being done.

    Raises:
        PadlessError: there is no such source, it is not a model that padless has, a tokenizer does not match, logits
            differ, or the folder cannot be written; nothing is left of it then.
    """
    refuse_taken(out)
    resolved = resolve_source(name)
    refuse_own_source(out, resolved.path)
    say(f"reading {resolved.path}")
    loaded, moments = load_source(resolved)
    said = loaded.moments_problem or "none"
    kept = said if moments is None else "kept by start.keep=[weights,optimizer]"
    if resolved.path.is_file() and not _is_composer(resolved.path):
        return _import_own(resolved, loaded, out, kept, tokenizer, max_seq_len, say)
    own = _own_config(resolved.path)
    model, rope = loaded.model_config, loaded.rope
    belonging = tokenizer_for_import(resolved, own, model.vocab_size, tokenizer)
    files, ids = belonging.files, belonging.special_ids
    if files is not None:
        refuse_more_ids(files.vocab_size, model)
    longest, notes = _longest(resolved, own, max_seq_len)
    with new_folder(out) as partial:
        say("comparing our logits with those of transformers")
        check_import(resolved.path, loaded, MAX_LOGIT_DIFFERENCE, partial)  # a kill leaves nothing elsewhere
        say(f"writing {out} and comparing its logits in transformers with ours")
        write_weights(partial, loaded.state_dict, model, rope, longest, ids)
        _keep_pooling(partial / "config.json", own)
        write_json(partial / "padless.json", _facts(resolved, loaded, belonging.recorded))
        if files is not None:
            files.write(partial, longest)
        (partial / "README.md").write_text(render_import_card(out.name, resolved, loaded, longest), encoding="utf-8")
        parity = compare_with_transformers(partial, loaded.state_dict, model, rope, ids, longest)
        require_parity(parity, MAX_LOGIT_DIFFERENCE)
        filled = None if files is None else fill_example(partial)
    return Imported(
        resolved.origin,
        model,
        rope,
        loaded.tokens_seen,
        kept,
        longest,
        files is not None,
        parity,
        filled,
        (*belonging.notes, *notes),
    )


def _import_own(
    resolved: ResolvedSource,
    loaded: LoadedSource,
    out: Path,
    moments: str,
    tokenizer: Path | None,
    max_seq_len: int | None,
    say: Say,
) -> Imported:
    """Export a checkpoint of padless, which knows its tokenizer and length."""
    for key, value in (("tokenizer", tokenizer), ("max_seq_len", max_seq_len)):
        if value is not None:
            raise CheckpointError(
                f"{key}={value} has no effect: {resolved.path} is a padless checkpoint, which knows its own",
                "remove it",
            )
    parity = export_checkpoint(resolved.path, out, say=say)
    longest = json.loads((out / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    filled = fill_example(out)
    return Imported(
        resolved.origin, loaded.model_config, loaded.rope, loaded.tokens_seen, moments, longest, True, parity, filled
    )


def _is_composer(path: Path) -> bool:
    return is_composer_checkpoint(outline_of_checkpoint(path))


def _own_config(path: Path) -> dict[str, Any]:
    """Return the config.json of a folder, which was checked as it was loaded; empty for a checkpoint."""
    return json.loads((path / "config.json").read_text(encoding="utf-8")) if path.is_dir() else {}


def _longest(resolved: ResolvedSource, own: dict[str, Any], given: int | None) -> tuple[int, tuple[str, ...]]:
    """Return the longest segment, in tokens, that is given or that the source says, and notes on it."""
    said = _said_length(resolved, own)
    if given is None and said is None:
        raise CheckpointError(
            f"{resolved.path} does not say how long the segments were that it was trained on",
            "give it: max_seq_len=1024 (or 8192, after a context extension)",
        )
    if given is not None and said is not None and given > said:
        note = f"max_seq_len={given} is written as given; the source says it was trained on segments of up to {said}"
        return given, (note,)
    return given or said or 0, ()


def _said_length(resolved: ResolvedSource, own: dict[str, Any]) -> int | None:
    said = own.get("max_position_embeddings")
    if said is None and resolved.path.is_file():
        said = resolved.hub.max_seq_len if resolved.hub is not None else _max_seq_len_beside(resolved.path)
    return said if type(said) is int and said >= 1 else None


def _max_seq_len_beside(path: Path) -> object:
    for file in (path.with_suffix(".yaml"), path.with_suffix(".yml"), path.with_name("config.yaml")):
        if file.is_file() and file.stat().st_size <= _MAX_JSON_BYTES:
            try:
                tree = yaml.load(file.read_text(encoding="utf-8"), without_aliases(yaml.SafeLoader))
            except (OSError, ValueError, RecursionError, yaml.YAMLError):
                return None
            return tree.get("max_seq_len") if isinstance(tree, dict) else None
    return None


def _keep_pooling(file: Path, own: dict[str, Any]) -> None:
    """Write the source's pooling into the config: what its users fine-tune it with."""
    if own.get("classifier_pooling") in ("cls", "mean"):
        written = json.loads(file.read_text(encoding="utf-8"))
        write_json(file, {**written, "classifier_pooling": own["classifier_pooling"]})


def _facts(resolved: ResolvedSource, loaded: LoadedSource, tokenizer_sha256: str | None) -> dict[str, Any]:
    """Return what ``padless.json`` says: what the source's own says, if it has one, and where it came from."""
    own = recorded_facts(resolved.path) if resolved.path.is_dir() else {}
    tokens = {} if loaded.tokens_seen is None else {"clock_tokens": loaded.tokens_seen}
    return {**own, **tokens, TOKENIZER_HASH: tokenizer_sha256, "imported_from": resolved.origin}
