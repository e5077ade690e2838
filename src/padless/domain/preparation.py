"""Documents to blocks that fit a source: decided before anything is tokenised, and nothing left by a refusal.

what is prepared already        kept, if it is what this call would prepare; else refused, in the first seconds
what is half prepared           goes on, or is begun anew where another setting or other files are given
what failed before any of it    removed again
"""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from padless.data.documents import list_input
from padless.data.manifest import MANIFEST, Manifest, read_manifest
from padless.data.prepare import lock_folder, prepare
from padless.data.text_column import find_text_key
from padless.data.tokenise import tokenizer_facts
from padless.domain.settings import DOMAIN, GENERAL, Continuation
from padless.domain.source_facts import SourceFacts
from padless.domain.validation_share import choose_val_fraction
from padless.errors import ConfigError, DataError, PadlessError

SHORT_CAP, LONG_FROM = 1024, 2048  # tokens: documents beyond the second make longer segments worth while
_LEAST_LONG_SHARE = 0.01  # of the domain's tokens, as a run asks of its phases, too
_PLAN = Path("tokens", "plan.json")


@dataclass(frozen=True)
class StreamPlan:
    """One stream that is to be prepared, decided.

    Attributes:
        source: documents.
        folder: to prepare into.
        tokenizer: tokenizer.json.
        text_key: key or column of the text.
        block_tokens: tokens of a block.
        val_fraction: share of documents for validation.
    """

    source: str
    folder: Path
    tokenizer: Path
    text_key: str
    block_tokens: int
    val_fraction: float

    def settings(self) -> dict[str, Any]:
        """Return what a prepared folder must agree with, by its names there."""
        return {
            "tokenizer_sha256": tokenizer_facts(self.tokenizer).sha256,
            "text_key": self.text_key,
            "block_tokens": self.block_tokens,
            "val_fraction": self.val_fraction,
        }


def shards_folder(wanted: Continuation) -> Path:
    """Return the folder that both streams are prepared into."""
    return Path(wanted.shards) if wanted.shards else Path("prepared") / wanted.name


def plan_streams(wanted: Continuation, facts: SourceFacts, say: Callable[[str], None]) -> dict[str, StreamPlan]:
    """Return what is to be prepared, by stream; documents are looked at and nothing is written.

    Raises:
        PadlessError: documents cannot be read or are too few, or other ones are prepared in the folder.
    """
    sources = {DOMAIN: (wanted.input, wanted.text_key)}
    if wanted.general is not None:
        sources[GENERAL] = (wanted.general, wanted.general_text_key)
    return {name: _plan(wanted, facts, name, *source, say) for name, source in sources.items()}


def _plan(
    wanted: Continuation, facts: SourceFacts, name: str, source: str, text_key: str | None, say: Callable[[str], None]
) -> StreamPlan:
    folder = shards_folder(wanted) / name
    done = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    is_here = done is None or _is_there(source)
    if text_key is None:
        text_key = done.input["settings"]["text_key"] if done is not None and not is_here else None
    if text_key is None:
        text_key, line = find_text_key(source)
        say(line)
    fraction = wanted.val_fraction
    if done is None:
        fraction, line = choose_val_fraction(source, text_key, fraction)
        if line is not None:
            say(line)
    elif fraction is None:
        fraction = done.val_fraction
    plan = StreamPlan(source, folder, facts.tokenizer, text_key, wanted.block_tokens, fraction)
    if done is not None:
        _refuse_other(plan, done, wanted, _sizes(source) if is_here else None)
    return plan


def _is_there(source: str) -> bool:
    """Return whether documents are where they are said to be; what is prepared does not need them any more."""
    try:
        return bool(list_input(source))
    except DataError:
        return False


def _sizes(source: str) -> list[list[Any]]:
    return [[file.name, file.num_bytes] for file in list_input(source)]


def _refuse_other(plan: StreamPlan, done: Manifest, wanted: Continuation, files: list[list[Any]] | None) -> None:
    """Refuse to use what was prepared from other documents or otherwise: a run may have been trained on it."""
    old = done.input["settings"]
    different = next((key for key, value in plan.settings().items() if old[key] != value), None)
    anew = f"name={_free_name(wanted)} for a run of its own" + ("" if wanted.shards is None else ", and other shards=")
    if different is not None:
        raise ConfigError(
            f"{plan.folder} is prepared with {different}={old[different]}, this call has "
            f"{different}={plan.settings()[different]}",
            f"use the same, or {anew}",
        )
    if files is not None and files != done.input["files"]:
        raise DataError(f"{plan.folder} is prepared from other files than {plan.source} has now", f"use {anew}")
    if done.documents["val"] == 0:
        raise DataError(f"{plan.folder} is prepared without a document for validation", f"use {anew}")


def _free_name(wanted: Continuation) -> str:
    number = 2
    while any(Path(parent, f"{wanted.name}-{number}").exists() for parent in ("prepared", wanted.runs)):
        number += 1
    return f"{wanted.name}-{number}"


def prepare_domain(plan: StreamPlan, longest: int, given: int | None, console: Console) -> tuple[Manifest, int]:
    """Prepare the domain and return its manifest, and the longest segment, in tokens, that was decided on.

    Args:
        plan: of the domain.
        longest: what source and blocks allow.
        given: by the user.
        console: where progress goes.

    Raises:
        PadlessError: the documents cannot be used.
    """
    cap = given or min(longest, SHORT_CAP)
    manifest = prepare_stream(plan, cap, console)
    if given is None and longest > cap and _long_share(manifest) >= _LEAST_LONG_SHARE:
        cap = longest
        manifest = prepare_stream(plan, cap, console)  # packs only; nothing is tokenised again
    return manifest, cap


def prepare_stream(plan: StreamPlan, cap: int, console: Console) -> Manifest:
    """Prepare one stream for segments up to ``cap`` tokens.

    Raises:
        PadlessError: the documents cannot be used; what they left is removed unless a part of them is done.
    """
    _begin_anew(plan, console)
    try:
        return prepare(
            plan.source,
            plan.folder,
            plan.tokenizer,
            max_seq_len=(cap,),
            block_tokens=plan.block_tokens,
            val_fraction=plan.val_fraction,
            text_key=plan.text_key,
            console=console,
        )
    except PadlessError:
        _tidy(plan.folder)
        raise


def _begin_anew(plan: StreamPlan, console: Console) -> None:
    """Remove what an unfinished preparation with other settings or of other files left: nothing could use it."""
    path = plan.folder / _PLAN
    if (plan.folder / MANIFEST).is_file() or not path.is_file():
        return
    with lock_folder(plan.folder):
        old = json.loads(path.read_bytes())
        new = plan.settings()
        reason = next((f"{key}={old['settings'][key]}" for key in new if old["settings"][key] != new[key]), None)
        if reason is None and [name for name, _ in old["files"]] != [name for name, _ in _sizes(plan.source)]:
            reason = "of other files"
        if reason is None:
            return
        console.print(
            f"{plan.folder} is half prepared ({reason}): begun anew", highlight=False, soft_wrap=True, markup=False
        )
        for name in ("tokens", "blocks"):
            shutil.rmtree(plan.folder / name, ignore_errors=True)


def _tidy(folder: Path) -> None:
    """Remove a folder in which nothing was done, and its parent if that is empty then."""
    if (folder / MANIFEST).is_file() or not folder.is_dir():
        return
    with suppress(DataError), lock_folder(folder):  # somebody else's is left alone
        done = [path for path in (folder / "tokens").glob("*.json") if path.name != _PLAN.name]
        others = [path for path in folder.iterdir() if path.name not in (".lock", "tokens")]
        if not done and not others:
            shutil.rmtree(folder)
    with suppress(OSError):
        folder.parent.rmdir()


def _long_share(manifest: Manifest) -> float:
    """Return about which share of the tokens lies in long documents: each counted with its histogram's lower bound."""
    counted = {int(bound): int(bound) / 2 * count for bound, count in manifest.length_histogram.items()}
    long = sum(tokens for bound, tokens in counted.items() if bound > LONG_FROM)
    return long / max(1.0, sum(counted.values()))
