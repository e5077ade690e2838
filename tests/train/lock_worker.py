"""Takes the lock of a run folder and holds it until a line comes in. python ... FOLDER [WAIT_S]"""

import sys
from pathlib import Path

from padless.errors import CheckpointError
from padless.train.lock import RunLock


def say(line: str) -> None:
    print(f"said: {line}", flush=True)


lock = RunLock(Path(sys.argv[1]), beat_s=0.2, still_s=1.5)
try:
    lock.acquire(say, wait_s=float(sys.argv[2]) if len(sys.argv) > 2 else 0.5)
except CheckpointError as error:
    print(f"refused: {error.cause}", flush=True)
    sys.exit(2)
print("held", flush=True)
sys.stdin.readline()
lock.release()
print("released", flush=True)
