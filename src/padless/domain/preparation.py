"""Documents to blocks that fit a source: decided before anything is tokenised, and nothing left by a refusal.

what is prepared already        kept, if it is what this call would prepare; else refused, in the first seconds
what is half prepared           goes on, or is begun anew where another setting or other files are given
what failed before any of it    removed again
"""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from padless.checkpoint.named import whole_checkpoints
from padless.data.documents import list_input
from padless.data.manifest import MANIFEST, Manifest, read_manifest
from padless.data.prepare import LOCK, lock_folder, prepare
from padless.data.text_column import find_text_key
from padless.data.tokenise import tokenizer_facts
from padless.domain.settings import DOMAIN, GENERAL, Continuation
from padless.domain.source_facts import SourceFacts
from padless.domain.validation_share import USUAL, choose_val_fraction
from padless.errors import DataError, PadlessError

SHORT_CAP, LONG_FROM = 1024, 2048  # tokens: documents beyond the second make longer segments worth while
_LEAST_LONG_SHARE = 0.01  # of the domain's tokens, as a run asks of its phases, too
_LITTLE_TOKENS = 20_000_000  # ours: prepared again within a minute
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
        replaces: why what is prepared in the folder goes, if it does.
    """

    source: str
    folder: Path
    tokenizer: Path
    text_key: str
    block_tokens: int
    val_fraction: float
    replaces: str | None = None

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
    is_here = _is_there(source)
    if text_key is None and done is not None and not is_here:
        text_key = str(done.input["settings"]["text_key"])
    if text_key is None:
        text_key, line = find_text_key(source)
        say(line)
    plan = StreamPlan(source, folder, facts.tokenizer, text_key, wanted.block_tokens, wanted.val_fraction or USUAL)
    reason = None
    if done is not None:
        plan = replace(plan, val_fraction=wanted.val_fraction or done.val_fraction)
        reason = _difference(plan, done, is_here)
        if reason is None:
            return plan
        if not (is_here and _may_begin_anew(wanted, done)):
            raise _other_preparation(plan, reason, wanted)
    fraction, line = choose_val_fraction(source, text_key, wanted.val_fraction)
    if line is not None:
        say(line)
    return replace(plan, val_fraction=fraction, replaces=reason)


def _is_there(source: str) -> bool:
    """Return whether documents are where they are said to be; what is prepared does not need them any more."""
    try:
        return bool(list_input(source))
    except DataError:
        return False


def _sizes(source: str) -> list[list[Any]]:
    return [[file.name, file.num_bytes] for file in list_input(source)]


def _difference(plan: StreamPlan, done: Manifest, is_here: bool) -> str | None:
    """Return how what is prepared is another than what is wanted; None where it is the same."""
    old, new = done.input["settings"], plan.settings()
    for key, value in new.items():
        if old[key] != value:
            return f"with {key}={old[key]}, this call has {key}={value}"
    if is_here and _sizes(plan.source) != done.input["files"]:
        return f"from other files than {plan.source} has now"
    return "without a document for validation" if done.documents["val"] == 0 else None


def _may_begin_anew(wanted: Continuation, done: Manifest) -> bool:
    """Return whether what is prepared may go: it is little, in this run's own place, and the run has no checkpoint."""
    is_little = sum(done.tokens.values()) <= _LITTLE_TOKENS
    return wanted.shards is None and is_little and not whole_checkpoints(Path(wanted.runs) / wanted.name)


def _other_preparation(plan: StreamPlan, reason: str, wanted: Continuation) -> DataError:
    anew = f"name={_free_name(wanted)}" + ("" if wanted.shards is None else " and other shards=")
    return DataError(
        f"{plan.folder} is prepared {reason}",
        f"give what it is prepared with, or a name of its own to this run: {anew}; or delete {plan.folder}",
    )


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
        manifest = prepare_stream(replace(plan, replaces=None), cap, console)  # packs only; nothing is tokenised again
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
    """Remove what is prepared otherwise than is wanted, or half prepared: nothing could use it."""
    if not any((plan.folder / path).is_file() for path in (MANIFEST, _PLAN)):
        return
    with lock_folder(plan.folder):
        is_done = (plan.folder / MANIFEST).is_file()
        reason = plan.replaces if is_done else _half_prepared(plan)
        if reason is None:
            return
        what = "prepared" if is_done else "half prepared"
        console.print(f"{plan.folder} was {what} {reason}: begun anew", highlight=False, soft_wrap=True, markup=False)
        (plan.folder / MANIFEST).unlink(missing_ok=True)  # first: without it nothing takes the rest for whole
        for path in plan.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()


def _half_prepared(plan: StreamPlan) -> str | None:
    """Return how what is half prepared is another than what is wanted; None where preparation can go on."""
    old, new = json.loads((plan.folder / _PLAN).read_bytes()), plan.settings()
    for key, value in new.items():
        if old["settings"][key] != value:
            return f"with {key}={old['settings'][key]}"
    same_files = [name for name, _ in old["files"]] == [name for name, _ in _sizes(plan.source)]
    return None if same_files else "from other files"


def _tidy(folder: Path) -> None:
    """Remove a folder in which nothing was done, and its parent if that is empty then."""
    if (folder / MANIFEST).is_file() or not folder.is_dir():
        return
    with suppress(DataError), lock_folder(folder):  # somebody else's is left alone
        done = [path for path in (folder / "tokens").glob("*.json") if path.name != _PLAN.name]
        others = [path for path in folder.iterdir() if path.name not in (LOCK, "tokens")]
        if not done and not others:
            shutil.rmtree(folder)
    with suppress(OSError):
        folder.parent.rmdir()


def _long_share(manifest: Manifest) -> float:
    """Return about which share of the tokens lies in long documents: each counted with its histogram's lower bound."""
    counted = {int(bound): int(bound) / 2 * count for bound, count in manifest.length_histogram.items()}
    long = sum(tokens for bound, tokens in counted.items() if bound > LONG_FROM)
    return long / max(1.0, sum(counted.values()))
