"""``padless import SOURCE out=FOLDER``: read the words of the command line, import, say what came in."""

import dataclasses
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from padless.config.load import unknown_word
from padless.errors import ConfigError
from padless.export.import_model import Imported, import_model
from padless.saying import say_on
from padless.units import approximate_tokens

_USAGE = (
    "write: padless import <source> out=<folder> [tokenizer=<tokenizer.json>] [max_seq_len=8192]; a source is a path, "
    "a name such as modernbert-base@extended, or owner/name@revision"
)
_MAX_LENGTH_TOKENS = (1 << 31) - 1  # attention counts positions in 32 bits
_KEYS = ("out", "tokenizer", "max_seq_len")


@dataclass(frozen=True)
class ImportRequest:
    """What the command line asks for."""

    source: str
    out: Path
    tokenizer: Path | None = None
    max_seq_len: int | None = None


def import_command(arguments: list[str], as_json: bool) -> None:
    """Import a source and print what it is and how far its logits are from transformers'.

    Args:
        arguments: the source, ``out=``, and ``tokenizer=`` or ``max_seq_len=`` where the source does not say.
        as_json: print one JSON object instead of lines.

    Raises:
        PadlessError: an argument is not understood, or the import is refused; nothing is written then.
    """
    request = parse(arguments)
    say = say_on(Console(stderr=as_json))
    imported = import_model(request.source, request.out, request.tokenizer, request.max_seq_len, say)
    if as_json:
        content = {"ok": True, "out": str(request.out), **dataclasses.asdict(imported)}
        sys.stdout.write(json.dumps(content) + "\n")
        return
    for line in lines_of(request.out, imported):
        say(line)


def parse(arguments: Sequence[str]) -> ImportRequest:
    """Return what the words ask for.

    Raises:
        ConfigError: one is unknown, is there twice or is missing.
    """
    sources: list[str] = []
    found: dict[str, str] = {}
    for text in arguments:
        key, separator, value = text.partition("=")
        if not separator or os.path.exists(text):  # noqa: PTH110 - as resolve_source
            sources += [text] if text else []
        elif key not in _KEYS:
            raise unknown_word(text, _KEYS, _USAGE)
        elif not value or key in found:
            raise ConfigError(f"{key} has {'two values' if key in found else 'no value'}", _USAGE)
        else:
            found[key] = value
    if len(sources) != 1 or "out" not in found:
        missing = "no out=" if "out" not in found else f"{len(sources)} sources ({', '.join(sources) or 'none'})"
        raise ConfigError(f"{missing} given, one is needed", _USAGE)
    return ImportRequest(
        sources[0],
        Path(found["out"]),
        Path(found["tokenizer"]) if "tokenizer" in found else None,
        _length(found["max_seq_len"]) if "max_seq_len" in found else None,
    )


def _length(text: str) -> int:
    digits = text.replace("_", "")
    if not re.fullmatch(r"[0-9]{1,10}", digits) or not 1 <= int(digits) <= _MAX_LENGTH_TOKENS:
        raise ConfigError(
            f"max_seq_len={text:.40} is not a length in tokens",
            f"give a whole number such as 8192, at most {_MAX_LENGTH_TOKENS:_}",
        )
    return int(digits)


def lines_of(out: Path, imported: Imported) -> list[str]:
    """Return what a person is told of an import."""
    model, rope, parity = imported.model, imported.rope, imported.parity
    tokens = "unknown" if imported.tokens_seen is None else approximate_tokens(imported.tokens_seen)
    lines = [
        f"source: {imported.origin}",
        f"model: {model.num_layers} layers x {model.hidden_size}, {model.num_heads} heads, GeGLU "
        f"{model.intermediate_size}, vocabulary {model.vocab_size}; global every {model.global_every_layers} layers, "
        f"window {model.local_window_tokens}",
        f"RoPE theta {rope.global_theta:g} / {rope.local_theta:g} (global / local); segments of up to "
        f"{imported.max_position_tokens} tokens; tokens seen: {tokens}",
        f"optimizer moments: {imported.moments}",
        f"imported {out}: max |logit difference| {parity.max_abs_difference:.1e}, top-1 agreement "
        f"{parity.top1_agreement:.1%} against transformers",
    ]
    if imported.filled is not None:
        lines.append(f"  {imported.filled.as_line()}")
    lines += [f"note: {note}" for note in imported.notes]
    if imported.has_tokenizer:
        return lines
    return [*lines, "note: the source has no tokenizer; give one with tokenizer=, or copy it into the folder"]
