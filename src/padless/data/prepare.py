"""Documents to a prepared folder: the whole of data preparation in one function.

    output/
      tokens/plan.json        what is being prepared: settings and files; a rerun must agree
      tokens/00000.*          tokenised documents, a task an input slice         (pipeline, token_store)
      blocks/<max_seq_len>/   packed blocks of each split                        (blocks, mds_write)
      tokenizer.json ...      the tokenizer, as `transformers` loads it
      manifest.json           written last

Killed at any moment, the same call goes on where it was. On a finished folder it does nothing, or packs the
max_seq_len that is new; anything else that differs is an error.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from padless.data.blocks import PackingRules, SplitPacker
from padless.data.documents import InputFile, list_input
from padless.data.durable import write_durably
from padless.data.manifest import FORMAT_VERSION, MANIFEST, Manifest, SplitBlocks, read_manifest, write_manifest
from padless.data.pipeline import num_tasks_for, tokenise_files
from padless.data.progress import Progress
from padless.data.summary import print_summary
from padless.data.token_store import SPLITS, TokenStore, task_path
from padless.data.tokenise import TokenizerFacts, tokenizer_facts, tokenizer_file
from padless.errors import ConfigError, DataError
from padless.processes import die_with

PACKAGES = ("padless", "numpy", "tokenizers", "gigatoken", "datatrove", "mosaicml-streaming")
MAX_LISTED_SOURCES = 100
LOCK = ".lock"

Blocks = dict[str, dict[str, SplitBlocks]]  # max_seq_len -> split


@dataclass(frozen=True)
class Settings:
    """What decides the content of a prepared folder, apart from the files and the list of max_seq_len."""

    tokenizer_sha256: str
    text_key: str
    block_tokens: int
    val_fraction: float
    dtype: str
    fast: bool


@dataclass(frozen=True)
class _Job:
    """One call of :func:`prepare`, checked."""

    output: Path
    source: str | Path
    tokenizer: Path
    facts: TokenizerFacts
    settings: Settings
    max_seq_len: tuple[int, ...]
    workers: int
    console: Console


def prepare(
    input: str | Path,
    output: str | Path,
    tokenizer: str | Path,
    *,
    max_seq_len: Sequence[int] = (1024, 8192),
    block_tokens: int = 8192,
    val_fraction: float = 0.005,
    text_key: str = "text",
    dtype: str | None = None,
    fast: bool = True,
    workers: int | None = None,
    console: Console | None = None,
) -> Manifest:
    """Prepare documents for training and return the manifest of the prepared folder.

    Args:
        input: file, folder, glob, `datasets` folder from save_to_disk, or hf:// address of documents.
        output: folder to prepare into; one stream of a recipe.
        tokenizer: tokenizer.json, or its folder.
        max_seq_len: caps on a segment, in tokens with specials; blocks are packed for each.
        block_tokens: tokens a block can hold.
        val_fraction: share of documents kept for validation, chosen by the hash of their text.
        text_key: key or column of the text.
        dtype: uint16 or uint32; left out, the smallest that holds the vocabulary.
        fast: tokenise with gigatoken where it can be; false uses tokenizers alone.
        workers: processes; left out, one a core, but no more than there are files.
        console: where progress and the summary go; left out, standard output.

    Raises:
        ConfigError: a setting is out of range or contradicts what the folder holds.
        DataError: the documents or the tokenizer cannot be used.
    """
    console = console or Console()
    path = tokenizer_file(tokenizer)
    facts = tokenizer_facts(path)
    caps = tuple(sorted(set(max_seq_len)))
    settings = Settings(facts.sha256, text_key, block_tokens, val_fraction, dtype or facts.dtype, fast)
    _check_settings(settings, caps, facts, workers)
    job = _Job(Path(output), input, path, facts, settings, caps, workers or os.cpu_count() or 1, console)
    job.output.mkdir(parents=True, exist_ok=True)
    with lock_folder(job.output):
        manifest = _extend(job) if (job.output / MANIFEST).is_file() else _prepare_new(job)
    print_summary(console, job.output, manifest)
    return manifest


def _check_settings(settings: Settings, caps: tuple[int, ...], facts: TokenizerFacts, workers: int | None) -> None:
    if not caps or caps[0] < 3:
        raise ConfigError(
            f"max_seq_len={caps} has a cap under 3 tokens or none", "give caps such as max_seq_len=1024,8192"
        )
    if caps[-1] > settings.block_tokens:
        raise ConfigError(
            f"max_seq_len={caps[-1]} is over block_tokens={settings.block_tokens}: a segment must fit into a block",
            "raise block_tokens or lower max_seq_len",
        )
    if not 0 <= settings.val_fraction < 1:
        raise ConfigError(f"val_fraction={settings.val_fraction} is not in [0, 1)", "give a share such as 0.005")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers={workers} is not a number of processes", "give 1 or more, or leave it out")
    if settings.dtype not in ("uint16", "uint32"):
        raise ConfigError(f"dtype={settings.dtype} is not a token type", "give uint16 or uint32, or leave it out")
    if facts.vocab_size > int(np.iinfo(settings.dtype).max) + 1:
        raise ConfigError(
            f"dtype={settings.dtype} holds ids up to {np.iinfo(settings.dtype).max}, the tokenizer has "
            f"{facts.vocab_size} entries",
            "leave dtype out, or give dtype=uint32",
        )


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder that is being prepared, so that no other process works in it.

    Raises:
        DataError: another one does.
    """
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{folder} is being prepared by another process", "wait for it, or use another output"
            ) from None
        _locks[handle] = os.getpid()
        yield
    finally:
        _locks.pop(handle, None)
        os.close(handle)


def _give_up_locks() -> None:
    """Close the locks of the parent in a forked process, which would hold them for good once the parent is killed."""
    for handle, owner in list(_locks.items()):
        os.close(handle)
        die_with(owner)
    _locks.clear()


_locks: dict[int, int] = {}  # handle -> process that took it
os.register_at_fork(after_in_child=_give_up_locks)


def _files_as_json(files: list[InputFile]) -> list[list[Any]]:
    return [[file.name, file.num_bytes] for file in files]


def _prepare_new(job: _Job) -> Manifest:
    files = list_input(job.source)
    if sum(file.num_bytes for file in files) == 0:
        raise DataError(f"input {job.source} is empty ({len(files)} files of 0 bytes)", "give files with documents")
    plan = {"settings": asdict(job.settings), "files": _files_as_json(files)}
    tokens_folder = job.output / "tokens"
    plan_path = tokens_folder / "plan.json"
    if plan_path.is_file():
        old = json.loads(plan_path.read_bytes())
        _require_same({**old, "files": plan["files"]}, plan, f"the unfinished preparation in {job.output}")
        _forget_changed_tasks(tokens_folder, old["files"], plan["files"])
        write_durably(plan_path, json.dumps(plan).encode())
        job.console.print(f"going on with the preparation in {job.output}", highlight=False)
    else:
        _require_unused(job.output)
        write_durably(plan_path, json.dumps(plan).encode())
    with Progress(job.console, "tokenising", sum(file.num_bytes for file in files)) as progress:
        tokenise_files(
            tokens_folder,
            files,
            text_key=job.settings.text_key,
            tokenizer=job.tokenizer,
            dtype=job.settings.dtype,
            val_fraction=job.settings.val_fraction,
            fast=job.settings.fast,
            workers=job.workers,
            progress=progress,
        )
    store = TokenStore(tokens_folder, num_tasks_for(len(files)), job.settings.dtype)
    _require_documents(job, store)
    _save_tokenizer(job)
    manifest = _manifest(job, store, plan, _pack(job, store, job.max_seq_len))
    write_manifest(job.output, manifest)
    return manifest


def _forget_changed_tasks(folder: Path, old: list[list[Any]], new: list[list[Any]]) -> None:
    """Undo the tasks of files that have another size now (somebody mended them) before preparation goes on."""
    if [name for name, _ in old] != [name for name, _ in new]:
        changed = sorted({name for name, _ in old} ^ {name for name, _ in new})
        raise DataError(
            f"{folder.parent} is half prepared from other files than this call gives (first difference: {changed[0]})",
            "prepare the changed input into another output folder, or delete this one",
        )
    for number, (before, after) in enumerate(zip(old, new, strict=True)):
        if before != after:
            task_path(folder, number % num_tasks_for(len(new)), "json").unlink(missing_ok=True)


def _require_unused(output: Path) -> None:
    found = sorted(path.name for path in output.iterdir() if path.name not in (LOCK, "tokens"))
    if found:
        raise DataError(f"output {output} holds other files ({', '.join(found[:3])})", "give an empty or a new folder")


def _require_same(old: dict[str, Any], new: dict[str, Any], what: str) -> None:
    for key, value in new["settings"].items():
        if old["settings"][key] != value:
            raise ConfigError(
                f"{what} has {key}={old['settings'][key]}, this call {key}={value}",
                f"use the same {key}, or another output folder",
            )
    if old["files"] != new["files"]:
        changed = sorted({name for name, _ in _difference(old["files"], new["files"])})
        raise DataError(
            f"{what} has other input files than this call (first difference: {changed[0]})",
            "prepare the changed input into another output folder",
        )


def _difference(old: list[list[Any]], new: list[list[Any]]) -> set[tuple[str, int]]:
    return {(name, size) for name, size in old} ^ {(name, size) for name, size in new}


def _require_documents(job: _Job, store: TokenStore) -> None:
    if not store.is_val_D.all():
        return
    empty = sum(summary.empty_documents for summary in store.summaries)
    raise DataError(
        f"input {job.source} has no document to train on ({empty} empty, {store.is_val_D.size} for validation)",
        "give more documents, set text_key=<the key of the text>, or lower val_fraction",
    )


def _pack(job: _Job, store: TokenStore, caps: Sequence[int]) -> Blocks:
    return {str(cap): {split: _pack_split(job, store, cap, split) for split in SPLITS} for cap in caps}


def _pack_split(job: _Job, store: TokenStore, cap: int, split: str) -> SplitBlocks:
    from padless.data.mds_write import write_split  # Streaming takes seconds to import; errors should not wait for it

    documents_D = np.flatnonzero(store.is_val_D if split == "val" else ~store.is_val_D)
    ids = job.facts.special_ids
    rules = PackingRules(cap, job.settings.block_tokens, ids["cls"], ids["sep"], job.settings.dtype)
    path = Path("blocks", str(cap), split)
    with Progress(job.console, f"packing {split} at {cap}", float(store.tokens_D[documents_D].sum())) as progress:
        packer = SplitPacker(store, documents_D, rules, progress)
        shards = write_split(job.output / path, packer, job.settings.dtype)
    return packer.facts(path, shards)


def _save_tokenizer(job: _Job) -> None:
    """Save what `transformers` wants beside tokenizer.json, which itself is copied byte for byte."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(job.tokenizer),
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_max_length=job.max_seq_len[-1],
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    content = job.tokenizer.read_bytes()
    fast.save_pretrained(str(job.output))
    write_durably(job.output / "tokenizer.json", content)


def _manifest(job: _Job, store: TokenStore, plan: dict[str, Any], blocks: Blocks) -> Manifest:
    facts, settings = job.facts, job.settings
    return Manifest(
        format_version=FORMAT_VERSION,
        tokenizer_sha256=facts.sha256,
        vocab_size=facts.vocab_size,
        special_ids=facts.special_ids,
        all_special_ids=facts.all_special_ids,
        dtype=settings.dtype,
        block_tokens=settings.block_tokens,
        val_fraction=settings.val_fraction,
        documents=store.document_counts(),
        tokens=store.token_counts(),
        tokens_sha256=store.sha256(),
        sources=store.source_counts(MAX_LISTED_SOURCES),
        length_histogram=store.length_histogram(),
        max_document_tokens=int(store.tokens_D.max()),
        blocks=blocks,
        input={"given": str(job.source), **plan},
        versions={package: version(package) for package in PACKAGES},
    )


def _extend(job: _Job) -> Manifest:
    """Do what is missing in a finished folder: nothing, or packing for further max_seq_len."""
    manifest = read_manifest(job.output)
    try:
        files = _files_as_json(list_input(job.source))
    except DataError:  # the documents may be gone by now; their tokens are kept
        files = manifest.input["files"]
    plan = {"settings": asdict(job.settings), "files": files}
    _require_same(manifest.input, plan, f"the prepared folder {job.output}")
    missing = [cap for cap in job.max_seq_len if str(cap) not in manifest.blocks]
    if not missing:
        job.console.print(f"{job.output} is prepared already with these settings: nothing to do", highlight=False)
        return manifest
    job.console.print(f"{job.output} is prepared already: packing for max_seq_len {missing} only", highlight=False)
    store = TokenStore(job.output / "tokens", num_tasks_for(len(files)), job.settings.dtype)
    if store.sha256() != manifest.tokens_sha256:
        raise DataError(f"{job.output}/tokens has changed since it was prepared", "prepare into a new folder")
    blocks = {**manifest.blocks, **_pack(job, store, missing)}
    manifest = replace(manifest, blocks=dict(sorted(blocks.items(), key=lambda entry: int(entry[0]))))
    write_manifest(job.output, manifest)
    return manifest
