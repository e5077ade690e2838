"""Start real runs of the smoke recipe as a user would, watch their metrics, kill them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from filelock import FileLock

from padless.data.bundled import prepare_bundled

REPO = Path(__file__).parents[2]
PREPARED = REPO / ".cache" / "test-data"  # prepared once from the bundled corpus, shared by all tests
UNTIMED = ("tokens", "step", "phase", "loss", "grad_norm", "lr", "batch_blocks", "mask_rate", "blocks", "real_tokens")


def prepare_shared() -> Path:
    """Prepare the bundled corpus as the smoke recipe reads it, once, also with several test processes."""
    PREPARED.parent.mkdir(exist_ok=True)
    with FileLock(PREPARED.with_suffix(".lock")):
        prepare_bundled(PREPARED, 256, (64, 256), 2048)
    return PREPARED


def overrides(folder: Path, **more: object) -> list[str]:
    """Overrides of a smoke run in ``folder`` on the shared prepared data."""
    streams = [f"data.streams.{name}.local={PREPARED / name}" for name in ("general", "code", "science")]
    return ["recipe=smoke", f"run.folder={folder}", *streams, *(f"{key}={value}" for key, value in more.items())]


def start(arguments: list[str], launcher: tuple[str, ...] = (), env: dict[str, str] | None = None) -> subprocess.Popen:
    """Start ``train.py``; all its processes are one group, so that a kill leaves none behind."""
    command = [*(launcher or (sys.executable,)), str(REPO / "train.py"), *arguments]
    return subprocess.Popen(
        command,
        cwd=REPO,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, expect: int | None = 0, timeout_s: float = 400) -> str:
    """Wait for the end and return what it printed."""
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert expect is None or process.returncode == expect, output[-4000:]
    return output


def run(arguments: list[str], launcher: tuple[str, ...] = (), expect: int | None = 0) -> str:
    """Start a run and wait for its end."""
    return finish(start(arguments, launcher), expect)


def metrics(run_folder: Path) -> list[dict]:
    """Whole lines of the run's metrics, without clocks on the wall."""
    path = run_folder / "metrics.jsonl"
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().split("\n"):
        try:
            line = json.loads(text)
        except ValueError:
            continue
        lines.append({key: value for key, value in line.items() if key in UNTIMED or key.startswith("eval_")})
    return lines


def steps(run_folder: Path) -> list[dict]:
    """The lines of steps."""
    return [line for line in metrics(run_folder) if "loss" in line]


def kill_at_step(arguments: list[str], run_folder: Path, step: int, timeout_s: float = 200) -> None:
    """SIGKILL the run and all it started as soon as ``step`` steps are in its metrics."""
    process = start(arguments)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        done = steps(run_folder)
        if done and done[-1]["step"] >= step:
            break
        time.sleep(0.02)
    killed = process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    output, _ = process.communicate()
    assert killed, f"the run ended before step {step}:\n{output[-3000:]}"
