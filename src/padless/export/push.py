"""Exported folders to the Hugging Face hub, each as a revision. Private unless asked otherwise."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors

from padless.errors import CheckpointError
from padless.export.known_models import MAIN


def prepare_repo(repo: str, private: bool) -> None:
    """Make the repository if it is not there; so a wrong name, a missing login or network is known before the work.

    Raises:
        CheckpointError: the hub refuses, or cannot be reached.
    """
    with _in_our_words(repo):
        huggingface_hub.HfApi().create_repo(repo, private=private, exist_ok=True)


def push_folders(repo: str, folders: Sequence[tuple[Path, str]]) -> None:
    """Upload each folder as a revision, which then holds exactly its files.

    Args:
        repo: owner/name, see :func:`prepare_repo`.
        folders: whole exports, each with its revision.

    Raises:
        CheckpointError: the hub refuses, or cannot be reached; revisions before it are there.
    """
    api = huggingface_hub.HfApi()
    for folder, revision in folders:
        with _in_our_words(f"{repo}@{revision}"):
            if revision != MAIN:
                api.create_branch(repo, branch=revision, exist_ok=True)
            api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                revision=revision,
                commit_message=f"Export {folder.name}",
                delete_patterns="*",
            )


@contextmanager
def _in_our_words(what: str) -> Iterator[None]:
    try:
        yield
    except (errors.LocalTokenNotFoundError, errors.RepositoryNotFoundError) as error:
        raise _refused(what, error) from error
    except errors.HfHubHTTPError as error:
        raise _refused(what, error) from error
    except (errors.OfflineModeIsEnabled, OSError) as error:
        raise CheckpointError(
            f"{what}: the hub cannot be reached ({type(error).__name__})",
            "leave push= out and upload the folder where there is a network, with `hf upload`",
        ) from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"push={what} is not a name of the hub", "write owner/name") from error


def _refused(what: str, error: Exception) -> CheckpointError:
    said = str(error).strip().splitlines() or [type(error).__name__]
    return CheckpointError(
        f"the hub refuses {what}: {said[0][:160]}",
        "log in with `hf auth login`, or set HF_TOKEN to a token that may write there",
    )
