"""``padless export``: one checkpoint as a Hugging Face folder, or every checkpoint of a run, each as a revision."""

import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from padless.checkpoint.listing import CheckpointRow
from padless.checkpoint.named import checkpoint_by_name, whole_checkpoints
from padless.config.load import unknown_word
from padless.errors import CheckpointError, ConfigError
from padless.export.command import export_checkpoint
from padless.export.fill_mask import FilledMask, fill_example
from padless.export.known_models import MAIN
from padless.export.near_names import folder_of_run, nearest_checkpoint, nearest_run, refuse_run_folder
from padless.export.parity import ParityResult
from padless.saying import Say, say_on

_USAGE = (
    "write: padless export checkpoint=<file or run@latest> out=<folder>, or run=<run> every=true out=<folder>; with "
    "push=<owner/name> also to the hub"
)
_KEYS = ("checkpoint", "run", "every", "out", "push", "private", "licence")


@dataclass(frozen=True)
class ExportRequest:
    """What the command line asks for."""

    out: Path
    checkpoint: str | None = None
    run: str | None = None
    push: str | None = None  # owner/name
    private: bool = True
    licence: str | None = None  # as the hub writes it, such as apache-2.0


@dataclass(frozen=True)
class Exported:
    """One folder that was written."""

    checkpoint: Path
    out: Path
    parity: ParityResult
    filled: FilledMask | None  # None where its segments are too short for any


def export_command(arguments: list[str], as_json: bool) -> None:
    """Export, print how far the logits are from ours and a filled mask, and push what was written if asked to.

    Args:
        arguments: see the usage in any error.
        as_json: print one JSON object instead of lines.

    Raises:
        PadlessError: an argument is not understood, a checkpoint cannot be read, an export is refused, or the hub
            cannot be reached.
    """
    request = parse(arguments)
    console = Console(stderr=as_json)
    exported = export(request, say_on(console))
    if as_json:
        sys.stdout.write(json.dumps(_plain(request, exported)) + "\n")


def _plain(request: ExportRequest, exported: Sequence[Exported]) -> dict[str, Any]:
    rows = [
        {"checkpoint": str(each.checkpoint), "out": str(each.out), **dataclasses.asdict(each.parity)}
        for each in exported
    ]
    if request.run is not None:
        return {"ok": True, "out": str(request.out), "exports": rows, "pushed": request.push}
    return {"ok": True, **rows[0], "pushed": request.push}


def export(request: ExportRequest, say: Say) -> list[Exported]:
    """Write what is asked for; return each folder.

    Args:
        request: which checkpoints, where to, and whether to the hub.
        say: prints one line.

    Raises:
        PadlessError: see :func:`export_command`.
    """
    wanted = _checkpoints(request)
    if request.push is not None:
        from padless.export.push import prepare_repo

        prepare_repo(request.push, request.private)
    exported = []
    for checkpoint, out in wanted:
        parity = export_checkpoint(checkpoint, out, request.licence, say)
        filled = fill_example(out)
        exported.append(Exported(checkpoint, out, parity, filled))
        say(
            f"exported {out}: max |logit difference| {parity.max_abs_difference:.1e}, "
            f"top-1 agreement {parity.top1_agreement:.1%} against transformers"
        )
        if filled is not None:
            say(f"  {filled.as_line()}")
    if request.push is not None:
        say(f"uploading {len(exported)} folder{'s' * (len(exported) > 1)} to {request.push}")
        _push(request.push, request.run is not None, exported)
        say(f"pushed to {request.push}{' (private)' if request.private else ''}")
    return exported


def _push(repo: str, is_run: bool, exported: Sequence[Exported]) -> None:
    """Upload one folder as main, or each of a run's as a revision and the last as main, too."""
    from padless.export.push import push_folders

    revisions = [(each.out, each.out.name) for each in exported] if is_run else []
    push_folders(repo, [*revisions, (exported[-1].out, MAIN)])


def revision_name(row: CheckpointRow) -> str:
    """Return the name of a checkpoint's folder and revision: ``<phase>-<clock>tok``."""
    return f"{row.phase}-{row.clock_tokens}tok"


def _checkpoints(request: ExportRequest) -> list[tuple[Path, Path]]:
    """Return each checkpoint to export, with its folder."""
    if request.checkpoint is not None:
        path = Path(request.checkpoint)
        if os.path.exists(path):  # noqa: PTH110 - as resolve_source
            refuse_run_folder(path)
            return [(path, request.out)]
        named = checkpoint_by_name(request.checkpoint)
        if named is None:
            near = nearest_checkpoint(request.checkpoint)
            raise CheckpointError(
                f"checkpoint={request.checkpoint} is neither a file nor a checkpoint's name",
                f"did you mean {near}?" if near else "give a .pt file of a run's checkpoints/, or <run>@latest",
            )
        return [(named, request.out)]
    name = request.run or ""
    folder = folder_of_run(name)
    if folder is None:
        near = nearest_run(name)
        raise CheckpointError(
            f"run={name} is no folder of a run with checkpoints/",
            f"did you mean run={near}?" if near else "give runs/<name> or the run's name",
        )
    rows = whole_checkpoints(folder)
    if not rows:
        raise CheckpointError(f"{folder} has no whole checkpoint", f"look with `padless checkpoints {folder}`")
    return [(row.path, request.out / revision_name(row)) for row in rows]


def parse(arguments: Sequence[str]) -> ExportRequest:
    """Return what the words ask for.

    Raises:
        ConfigError: one is unknown, missing, there twice, or without effect.
    """
    found: dict[str, str] = {}
    for text in arguments:
        key, _, value = text.partition("=")
        if key not in _KEYS:
            raise unknown_word(text, _KEYS, _USAGE)
        if not value or key in found:
            raise ConfigError(f"{key} has {'two values' if key in found else 'no value'}", _USAGE)
        found[key] = value
    if ("checkpoint" in found) == ("run" in found):
        given = "both checkpoint= and run=" if "run" in found else "neither checkpoint= nor run="
        raise ConfigError(f"{given} given, one is needed", _USAGE)
    if "out" not in found:
        raise ConfigError("out has no value", _USAGE)
    if _truth(found, "every", default=False) != ("run" in found):
        meant = "run= exports every checkpoint" if "run" in found else "every=true exports a whole run"
        raise ConfigError(f"{meant}; {'every=true' if 'run' in found else 'run='} is missing", _USAGE)
    if "private" in found and "push" not in found:
        raise ConfigError(
            f"private={found['private']} has no effect without push=", "remove it, or give push=owner/name"
        )
    return ExportRequest(
        Path(found["out"]),
        found.get("checkpoint"),
        found.get("run"),
        found.get("push"),
        _truth(found, "private", default=True),
        found.get("licence"),
    )


def _truth(found: dict[str, str], key: str, default: bool) -> bool:
    value = found.get(key)
    if value not in (None, "true", "false"):
        raise ConfigError(f"{key}={value} is neither true nor false", _USAGE)
    return default if value is None else value == "true"
