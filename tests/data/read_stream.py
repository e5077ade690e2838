"""A process that reads a stream: ``read_stream.py <folder> <num_blocks> <workers> <microbatches> [<file to cut>]``.

Says "reading <n>" for each microbatch, and cuts the file after the first. With 0 microbatches it reads one, and then
waits for its standard input to end.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from small_streams import split_of

from padless.cli import exit_code_of
from padless.data.mds import BlockReader, StreamSource


def main() -> None:
    folder, num_blocks, workers, microbatches = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    reader = BlockReader(
        [StreamSource(split_of(folder, num_blocks), None, 1.0)],
        quantum_blocks=1,
        microbatch_blocks=1,
        num_canonical_nodes=1,
        shuffle_seed=None,
        num_workers=workers,
    )
    for number, _ in enumerate(reader.microbatches(0), start=1):
        print(f"reading {number}", flush=True)
        if len(sys.argv) > 5:
            os.truncate(sys.argv[5], 8)
        if not microbatches:
            sys.stdin.read()
        if number >= microbatches:
            break


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
