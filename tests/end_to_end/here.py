"""Runs within the test's own process: what a run writes and says, without the 12 s that a new process imports for."""

import contextlib
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

from runs import overrides

from padless.checkpoint import load_checkpoint
from padless.cli import exit_code_of
from padless.config.compose import compose
from padless.export.command import export_checkpoint


@dataclass(frozen=True)
class SmokeRun:
    """The whole smoke recipe with all its checkpoints; the one at its first phase's end, also as an export."""

    folder: Path
    output: str
    first_phase: Path
    first_phase_hf: Path


_smoke: list[SmokeRun] = []


def run_here(arguments: list[str]) -> str:
    """Run to the end and return what was printed."""
    from padless.train.run import run

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run(compose(arguments))
    return out.getvalue()


def refusal(arguments: list[str]) -> str:
    """Run what has to be refused with exit code 2, and return the error as the user sees it."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        from padless.train.run import run

        assert exit_code_of(lambda: run(compose(arguments))) == 2, out.getvalue()
    text = err.getvalue()
    error = text[text.index("error: ") :]
    assert error.count("\n  remedy: ") == 1
    assert len(error.strip().splitlines()) == 2, "one line of cause, one of remedy"
    assert "Traceback" not in text
    return error


def smoke_run(tmp_path_factory) -> SmokeRun:
    """Return the shared run; the first test that asks pays for it."""
    if not _smoke:
        base = tmp_path_factory.mktemp("smoke")
        output = run_here(overrides(base, **{"run.keep_newest_checkpoints": "null"}))
        folder = base / "smoke"
        first = max(
            (folder / "checkpoints" / "short").glob("*.pt"), key=lambda path: load_checkpoint(path).clock_tokens
        )
        export_checkpoint(first, base / "first_phase_hf")
        _smoke.append(SmokeRun(folder, output, first, base / "first_phase_hf"))
    return _smoke[0]


def copy_of(path: Path, to: Path) -> Path:
    """Copy a file or folder, so that a test may damage or delete it."""
    return Path(shutil.copytree(path, to) if path.is_dir() else shutil.copy(path, to))
