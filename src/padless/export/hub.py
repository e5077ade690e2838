"""Files of the Hugging Face hub, as few as are needed, into huggingface_hub's own cache; what is there is taken.

Nothing that was downloaded is run: who reads the files refuses what is not tensors.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors

from padless.errors import CheckpointError
from padless.export.known_models import MAIN, HubSource
from padless.export.pickled_weights import PICKLED

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_FOLDER_FILES = (
    *("config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
    *(*_TOKENIZER_FILES, "padless.json"),
)
_BATCH = re.compile(r"ba(\d{1,12})")
_SHOWN_FILES = 4


def fetch_folder(source: HubSource) -> Path:
    """Return the local copy of a folder of transformers: config, weights, tokenizer.

    Raises:
        CheckpointError: the hub cannot be reached and no copy is here, or it has no such repository or revision.
    """
    with _in_our_words(source):
        path = Path(_snapshot(source, _FOLDER_FILES))
        if not any(path.glob("model*.safetensors")):
            path = Path(_snapshot(source, (*_FOLDER_FILES, PICKLED)))
    return path


def fetch_file(source: HubSource) -> Path:
    """Return the local copy of a Composer checkpoint, and of its trainer's YAML where one lies beside it.

    Raises:
        CheckpointError: as :func:`fetch_folder`, or the repository has no such file.
    """
    with _in_our_words(source):
        names = _names(source)
        if names is None:
            return _cached_file(source)
        name = _chosen(source, names)
        return Path(_snapshot(source, (name, *_beside(name)))) / name


def fetch_tokenizer(repo: str) -> Path:
    """Return a folder with the local copy of a repository's tokenizer.

    Raises:
        CheckpointError: as :func:`fetch_folder`.
    """
    source = HubSource(repo)
    with _in_our_words(source):
        return Path(_snapshot(source, _TOKENIZER_FILES))


def newest_of(source: HubSource, names: Sequence[str]) -> str:
    """Return the checkpoint with the most batches among ``names``, by Composer's ``ep<n>-ba<n>-rank0.pt``.

    Raises:
        CheckpointError: there is none, or names do not say which one is the newest.
    """
    counts = {name: int(match.group(1)) for name in names if (match := _BATCH.search(Path(name).name))}
    if counts:
        return max(counts, key=lambda name: counts[name])
    if len(names) == 1:
        return names[0]
    found = f"{', '.join(names[:_SHOWN_FILES])} and more" if names else "no checkpoint"
    raise CheckpointError(
        f"{source.repo}@{source.revision} has {found} in {source.newest_in}, none of which says its batch",
        "download the one you want and give its path",
    )


def revision_of(path: Path) -> str | None:
    """Return the commit that a file or folder in the cache is from."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else None


def _beside(name: str) -> tuple[str, str]:
    """Return where the YAML of a checkpoint's trainer may lie."""
    return str(Path(name).with_suffix(".yaml")), str(Path(name).with_name("config.yaml"))


def _snapshot(source: HubSource, names: Sequence[str]) -> str:
    return huggingface_hub.snapshot_download(source.repo, revision=source.revision, allow_patterns=list(names))


def _cached_file(source: HubSource) -> Path:
    """Return the copy of a checkpoint that is here, for when there is no network."""
    here = Path(huggingface_hub.snapshot_download(source.repo, revision=source.revision, local_files_only=True))
    names = [str(path.relative_to(here)) for path in here.rglob("*") if path.is_file()]
    if source.file not in names and not (source.newest_in and _in_folder(source.newest_in, names)):
        raise errors.LocalEntryNotFoundError(f"{source} is not in the cache")
    return here / _chosen(source, names)


def _in_folder(folder: str, names: Sequence[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(f"{folder}/") and name.endswith(".pt"))


def _names(source: HubSource) -> list[str] | None:
    """Return the files of a revision, None where the hub cannot be reached; one try, no waiting."""
    try:
        return huggingface_hub.HfApi().list_repo_files(source.repo, revision=source.revision)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise
    except (errors.OfflineModeIsEnabled, OSError):
        return None


def _chosen(source: HubSource, names: Sequence[str]) -> str:
    """Return the checkpoint that ``source`` names, of a repository's files."""
    if source.file is None:
        return newest_of(source, _in_folder(source.newest_in or "", names))
    if source.file not in names:
        raise errors.EntryNotFoundError(f"{source.file} is not in {source.repo}")
    return source.file


@contextmanager
def _in_our_words(source: HubSource) -> Iterator[None]:
    """Turn the hub's errors into ours."""
    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(
            f"the hub has no revision {source.revision!r} of {source.repo}", "look its branches and tags up on the hub"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{source.repo} is no path here, and the hub has no model of this name, or it is private",
            "check the name; for a private or gated one log in with `hf auth login`, or set HF_TOKEN",
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError) as error:
        raise _unreachable(source, error) from error
    except errors.EntryNotFoundError as error:
        raise CheckpointError(
            f"{source.repo}@{source.revision} has no file {source.file}",
            "look its files up on the hub, download the one you want and give its path",
        ) from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"{source.repo} is no path here and no name a hub has: {error}", "check it") from error
    except OSError as error:
        raise _unreachable(source, error) from error


def _unreachable(source: HubSource, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{source} is no path here, not in the cache, and the hub cannot be reached ({type(error).__name__})",
        f"where there is a network: `{_download_command(source)}`{_what_then(source)}",
    )


def _download_command(source: HubSource) -> str:
    """Return the command that fetches what :func:`fetch_folder` or :func:`fetch_file` would, and nothing else."""
    if source.file is None and source.newest_in is None:
        return _download(source.repo, source.revision, _FOLDER_FILES, "model")
    file = source.file or f"{source.newest_in}/<its newest>.pt"
    command = _download(source.repo, source.revision, (file, *_beside(file)), "model")
    if source.tokenizer_repo is None:
        return command
    return f"{command} && {_download(source.tokenizer_repo, MAIN, _TOKENIZER_FILES, 'model/tokenizer')}"


def _download(repo: str, revision: str, names: Sequence[str], folder: str) -> str:
    options = ["--local-dir", folder, *(() if revision == MAIN else ("--revision", revision))]
    return shlex.join(["hf", "download", repo, *names, *options])


def _what_then(source: HubSource) -> str:
    if source.file is None and source.newest_in is None:
        return f", or {PICKLED} in the place of safetensors where it has none; then give the path of model/"
    words = "" if source.tokenizer_repo is None else ", tokenizer=model/tokenizer"
    return (
        f"; then give the path of the .pt file{words} and max_seq_len={source.max_seq_len or '<its longest segment>'}"
    )
