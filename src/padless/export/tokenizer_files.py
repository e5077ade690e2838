"""The tokenizer that belongs to imported weights: files as they are, and the ids that a model's config states.

Published models name their special tokens differently ([MASK], <mask>): tokenizer_config.json or
special_tokens_map.json say which is which, and without them the names are BERT's.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from padless.checkpoint.outline import Outline
from padless.data.tokenise import SPECIALS
from padless.errors import DataError
from padless.export.lfs import refuse_lfs_pointer

TOKENIZER, SETTINGS, SPECIALS_MAP = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
_MAX_BYTES = 128 << 20
_OTHER_NAMES = {"cls": "bos", "sep": "eos"}
_NEEDED = ("cls", "sep", "pad", "mask")


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer as files, and what a model's config has to say of it."""

    files: dict[str, bytes]  # tokenizer.json and its settings, by name
    special_ids: dict[str, int]  # cls, sep, pad, mask
    mask_token: str
    ids: dict[str, int]  # of every token

    @property
    def vocab_size(self) -> int:
        """Return the largest id + 1."""
        return max(self.ids.values()) + 1

    @property
    def sha256(self) -> str:
        """Return the hash by which prepared data and checkpoints know a tokenizer: of tokenizer.json as it is."""
        return hashlib.sha256(self.files[TOKENIZER]).hexdigest()

    def write(self, folder: Path, max_position_tokens: int) -> None:
        """Write the files; settings that are missing are made, as transformers needs them."""
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        if SETTINGS not in self.files:
            tokens = {f"{name}_token": token for name, token in SPECIALS.items()}
            settings = {
                "model_input_names": ["input_ids", "attention_mask"],
                "model_max_length": max_position_tokens,
                "tokenizer_class": "PreTrainedTokenizerFast",
                **tokens,
            }
            (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def tokenizer_of(place: Path) -> TokenizerFiles | None:
    """Return the tokenizer in a folder, or the tokenizer.json at ``place`` with the settings beside it.

    Raises:
        DataError: it is not a tokenizer, or lacks a special token.
        ModelError: it is a Git LFS pointer.
    """
    file = place / TOKENIZER if place.is_dir() else place
    if not file.is_file():
        return None
    beside = [file.with_name(name) for name in (SETTINGS, SPECIALS_MAP)]
    found = {TOKENIZER: file, **{each.name: each for each in beside if each.is_file()}}
    for each in found.values():
        if each.stat().st_size > _MAX_BYTES:
            raise DataError(f"{each} has {each.stat().st_size:_} bytes", f"at most {_MAX_BYTES:_} are read")
        refuse_lfs_pointer(each)
    return _examined({name: each.read_bytes() for name, each in found.items()}, str(file))


def tokenizer_in(outline: Outline, what: str) -> TokenizerFiles | None:
    """Return the tokenizer that Composer put into a checkpoint, None where there is none.

    Args:
        outline: of the checkpoint.
        what: the checkpoint, for messages.

    Raises:
        DataError: it is not a tokenizer, or lacks a special token.
    """
    tree = outline.tree
    for key in ("state", "integrations", "huggingface", "tokenizer"):
        tree = tree.get(key) if isinstance(tree, dict) else None
    if not isinstance(tree, dict):
        return None
    contents = {name.removesuffix(".json"): each for name, each in tree.items() if isinstance(name, str)}
    files: dict[str, bytes] = {}
    for name in (TOKENIZER, SETTINGS, SPECIALS_MAP):
        saved = contents.get(name.removesuffix(".json"))
        content = saved.get("content") if isinstance(saved, dict) else None
        if isinstance(content, dict):
            files[name] = (json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()
    return _examined(files, f"the tokenizer in {what}") if TOKENIZER in files else None


def _examined(files: dict[str, bytes], what: str) -> TokenizerFiles:
    try:
        tokenizer = tokenizers.Tokenizer.from_str(files[TOKENIZER].decode("utf-8"))
    except Exception as error:  # the library raises Exception itself
        raise DataError(
            f"{what} is not a tokenizer: {str(error)[:120]}", "give a tokenizer.json of the `tokenizers` library"
        ) from error
    names = _token_names(files, what)
    ids = {name: tokenizer.token_to_id(names[name]) for name in _NEEDED}
    missing = [f"{name} ({names[name]})" for name, token_id in ids.items() if token_id is None]
    if missing:
        raise DataError(
            f"{what} has no {', '.join(missing)}",
            f"give the tokenizer.json the model was trained with, and its {SETTINGS} beside it",
        )
    special_ids = {name: int(each) for name, each in ids.items()}
    return TokenizerFiles(files, special_ids, names["mask"], tokenizer.get_vocab(with_added_tokens=True))


def _token_names(files: Mapping[str, bytes], what: str) -> dict[str, str]:
    said: dict[str, Any] = {}
    for name in (SPECIALS_MAP, SETTINGS):
        try:
            content = json.loads(files[name]) if name in files else {}
        except (ValueError, RecursionError) as error:
            raise DataError(f"{name} of {what} cannot be read: {error}", "download or copy it again") from error
        said.update(content if isinstance(content, dict) else {})
    return {name: _text(said, name) or _text(said, _OTHER_NAMES.get(name, name)) or SPECIALS[name] for name in _NEEDED}


def _text(said: Mapping[str, Any], name: str) -> str | None:
    """Return the token that settings give a name: plain, or with its flags."""
    token = said.get(f"{name}_token")
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) and token else None
