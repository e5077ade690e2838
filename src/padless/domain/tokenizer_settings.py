"""What a source says of its tokenizer beside tokenizer.json, carried over to an extended one.

tokenizer_config.json and special_tokens_map.json hold what users of the source rely on: flags of special tokens, the
longest text, further special tokens, a chat template. All of it is kept but for

    tokenizer_class     PreTrainedTokenizerFast: other classes build the tokenizer anew from files without the terms
    auto_map, paths     code and files that do not come along
    add_prefix_space    tokenizer.json says it, and is what documents are tokenised with
    added tokens        that tokenizer.json has not, under their ids: a term may have that id now
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from padless.errors import DataError
from padless.export.tokenizer_files import SETTINGS, SPECIALS_MAP
from padless.export.writer import write_json

FILES = (SETTINGS, SPECIALS_MAP)
_CHAT_TEMPLATE = "chat_template.jinja"
_CLASS = "PreTrainedTokenizerFast"
_GONE = (
    *("auto_map", "name_or_path", "tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file"),
    "add_prefix_space",
)
_MOST_BYTES = 16 << 20


def read_settings(tokenizer: Path) -> dict[str, dict[str, Any]]:
    """Return the settings that lie beside a tokenizer.json, by file; empty where there are none.

    Raises:
        DataError: a file is too large or no JSON object.
    """
    return {name: _read(tokenizer.with_name(name)) for name in FILES}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    if path.stat().st_size > _MOST_BYTES:
        raise DataError(f"{path} has {path.stat().st_size:_} bytes", f"at most {_MOST_BYTES:_} are read")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {str(error)[:120]}", "download or copy it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is a JSON {type(content).__name__}, not an object", "download or copy it again")
    return content


def kept_settings(own: Mapping[str, Any], usual: Mapping[str, Any], added: Mapping[str, int]) -> dict[str, Any]:
    """Return tokenizer_config.json of an extended tokenizer.

    Args:
        own: the source's.
        usual: what an export says; taken where the source says nothing.
        added: added tokens of tokenizer.json with their ids.
    """
    kept = {name: value for name, value in own.items() if name not in _GONE}
    tokens = kept.get("added_tokens_decoder")
    if isinstance(tokens, dict):
        kept["added_tokens_decoder"] = {place: token for place, token in tokens.items() if _is_of(place, token, added)}
    return {**usual, **kept, "tokenizer_class": _CLASS}


def _is_of(place: str, token: object, added: Mapping[str, int]) -> bool:
    return isinstance(token, dict) and str(added.get(str(token.get("content")))) == place


def keep_settings(own: Mapping[str, Mapping[str, Any]], tokenizer: Path, tree: Mapping[str, Any], folder: Path) -> None:
    """Write what a source says of its tokenizer into an export's folder, over what the export says by itself.

    Args:
        own: from :func:`read_settings`.
        tokenizer: the source's tokenizer.json.
        tree: content of the extended one.
        folder: the export.
    """
    added = {token["content"]: token["id"] for token in tree["added_tokens"]}
    write_json(folder / SETTINGS, kept_settings(own[SETTINGS], _read(folder / SETTINGS), added))
    write_json(folder / SPECIALS_MAP, {**_read(folder / SPECIALS_MAP), **own[SPECIALS_MAP]})
    template = tokenizer.with_name(_CHAT_TEMPLATE)
    if template.is_file():
        (folder / _CHAT_TEMPLATE).write_bytes(template.read_bytes())
