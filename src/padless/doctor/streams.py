"""The prepared streams, the tokenizer and the source weights of a run: there, whole, and fitting the settings."""

from collections.abc import Iterator
from pathlib import Path

from padless.checkpoint.named import checkpoint_by_name
from padless.config.bundled_streams import STREAMS
from padless.config.schema import Config, StreamConfig
from padless.data.durable import sha256_of_file
from padless.data.manifest import MANIFEST, Manifest, read_manifest, verify_manifest
from padless.doctor.finding import Finding, mend, note, ok
from padless.errors import CheckpointError, DataError
from padless.export.known_models import hub_source

_PREPARE = "data_prep/prepare.py input=<documents> output={folder} tokenizer=<tokenizer.json> max_seq_len={caps}"


def look_at_stream(config: Config, name: str) -> Iterator[Finding]:
    """Check one stream: its folder, manifest, tokenizer and shards (sizes), and the blocks that the phases need."""
    stream = config.data.streams[name]
    folder, label = Path(stream.local), f"stream {name}"
    caps = sorted({phase.max_seq_len for phase in config.phases.values() if name in phase.streams})
    if not (folder / MANIFEST).is_file():
        yield _absent_line(config, label, stream, caps)
        return
    manifest = verify_manifest(folder, shards_are_local=stream.remote is None, read_headers=False)
    misfit = _misfit(config, manifest)
    if misfit is not None:
        yield mend(label, f"{folder} {misfit[0]}", misfit[1])
        return
    blocks = ", ".join(f"{manifest.split(cap, 'train').num_blocks:,} at max_seq_len {cap}" for cap in caps)
    where = f"{folder}" if stream.remote is None else f"{folder}, cache of {stream.remote} (not contacted)"
    yield ok(label, f"{where}: blocks {blocks or 'for validation only'}")


def _absent_line(config: Config, label: str, stream: StreamConfig, caps: list[int]) -> Finding:
    folder = Path(stream.local)
    if stream.remote is not None:
        return note(label, f"{folder} is empty and is filled from {stream.remote} at start (not contacted now)")
    if config.data.prepare_bundled and label[7:] in STREAMS:
        return note(label, f"{folder} is not prepared yet: the bundled corpus is prepared there on first use")
    command = "python " + _PREPARE.format(folder=folder, caps=",".join(map(str, caps)) or config.eval.max_seq_len)
    if not folder.exists():
        return mend(label, f"{folder} does not exist", f"set data.streams.{label[7:]}.local, or prepare it: {command}")
    return mend(label, f"{folder} has no {MANIFEST}: not prepared, or not to the end", command)


def _misfit(config: Config, manifest: Manifest) -> tuple[str, str] | None:
    """Return (what does not fit the settings, remedy), or None."""
    if manifest.block_tokens != config.data.block_tokens:
        return (
            f"has blocks of {manifest.block_tokens} tokens, data.block_tokens={config.data.block_tokens}",
            f"set data.block_tokens={manifest.block_tokens}, or prepare the stream anew",
        )
    if manifest.vocab_size > config.model.vocab_size:
        return (
            f"has ids up to {manifest.vocab_size - 1}, model.vocab_size={config.model.vocab_size}",
            f"set model.vocab_size={-(-manifest.vocab_size // 64) * 64}",
        )
    return None


def look_at_tokenizer(config: Config) -> Iterator[Finding]:
    """Check that all prepared streams, and ``data.tokenizer`` if given, have one and the same tokenizer."""
    hashes = {}
    for name, stream in config.data.streams.items():
        if (Path(stream.local) / MANIFEST).is_file():
            hashes[name] = _tokenizer_of(Path(stream.local))
    if config.data.tokenizer is not None:
        path = Path(config.data.tokenizer)
        if not path.is_file():
            remedy = "give the tokenizer.json the shards were made with"
            yield mend("tokenizer", f"data.tokenizer={path} does not exist", remedy)
            return
        hashes["data.tokenizer"] = sha256_of_file(path)
    hashes = {name: digest for name, digest in hashes.items() if digest is not None}
    listed = ", ".join(f"{name}: {digest[:12]}" for name, digest in hashes.items())
    if not hashes:
        yield note("tokenizer", "no stream is prepared yet")
    elif len(set(hashes.values())) > 1:
        remedy = "prepare all streams with one tokenizer.json, and give that one as data.tokenizer"
        yield mend("tokenizer", f"the tokenizers differ ({listed})", remedy)
    else:
        yield ok("tokenizer", f"one for all ({listed})")


def _tokenizer_of(folder: Path) -> str | None:
    try:
        return read_manifest(folder).tokenizer_sha256
    except DataError:
        return None  # the line of that stream says it


def look_at_source(config: Config) -> Iterator[Finding]:
    """Check that the weights a run begins with are there."""
    for key, source in (("init.source", config.init.source), ("start.source", config.start.source)):
        if source is None:
            continue
        try:
            is_here = Path(source).exists() or checkpoint_by_name(source) is not None
            hub = None if is_here else hub_source(source)
        except CheckpointError as error:
            yield mend("source", error.cause, error.remedy)
            continue
        if is_here:
            yield ok("source", f"{key}={source}")
        elif hub is not None:
            yield ok("source", f"{key}={source}: no path here, so {hub} of the hub, if it is there")
        else:
            yield mend("source", f"{key}={source} does not exist", "give a checkpoint file or a Hugging Face folder")
