"""Rewrite the golden run: the smoke recipe, 100 steps through three phases with batch warmup, CPU, fp32, one thread.

python tests/golden/make_golden.py        the commit that moves the file says why the numbers moved
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "end_to_end"))

from runs import overrides, prepare_shared, run, steps

GOLDEN = Path(__file__).with_name("smoke_cpu_100_steps.txt")
COLUMNS = ("tokens", "loss", "grad_norm", "lr", "batch_blocks", "blocks")


def golden_lines(done: list[dict]) -> list[str]:
    """One line a step, full precision."""
    return [" ".join(str(line[column]) for column in COLUMNS) for line in done]


def main() -> None:
    """Run and write."""
    prepare_shared()
    with tempfile.TemporaryDirectory() as folder:
        run(overrides(Path(folder), **{"export.enabled": "false"}))
        lines = golden_lines(steps(Path(folder) / "smoke"))
    GOLDEN.write_text("# " + " ".join(COLUMNS) + "\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
