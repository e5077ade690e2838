"""A rank that joins, says its pid in a file, then does what is asked. python ... FOLDER WHAT

collective  meets the others in one barrier after another
hang        rank 1's main thread hangs after 20 of the exchanges that steps make; a stop signal does not wake it
sleep       sits outside any collective, as in a long computation, then a barrier
raise       rank 1 meets an error of its own; the others sit outside any collective
finish      leaves in good order, rank 0 at once, the others 3 s later
stop        rank 1 is stopped by a signal while rank 0 waits for it
fail        rank 1 meets an error of its own, rank 0 is stopped by the launcher because of it
supervised  as collective, with the run's folder held by rank 0
own         as supervised, but rank 0 meets an error of its own
loaders     as sleep, with two loader processes
train       reads from two loader processes until a signal asks for a stop, then reads 50 more, as a save takes time
"""

from padless.processes import die_with_launcher

die_with_launcher()

import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

from torch.utils.data import DataLoader  # noqa: E402

from padless.cli import exit_code_of  # noqa: E402
from padless.config.schema import HardwareConfig  # noqa: E402
from padless.errors import DataError, Stopped  # noqa: E402
from padless.processes import shield_loader_process  # noqa: E402
from padless.train.signals import StopSignals  # noqa: E402
from padless.train.supervise import supervised  # noqa: E402
from padless.train.world import World, start_world  # noqa: E402


class Pids:
    """Data that says who reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> int:
        (self.folder / f"loader-{os.getpid()}").touch()
        return index


def run_rank(folder: Path, what: str, timeout_s: float) -> int:
    """Be a rank, and return the code to exit with."""
    return exit_code_of(lambda: join(folder, what, timeout_s))


def join(folder: Path, what: str, timeout_s: float) -> None:
    with start_world(HardwareConfig("cpu", None, 1, "fp32", "sdpa", False, 1, True, timeout_s, "off")) as world:
        world.when_a_rank_is_lost(lambda line, code: write(folder / f"told-{world.rank}", f"{code} {line}"))
        loader = loader_of(folder) if what in ("loaders", "train") else iter([])
        write(folder / f"rank-{world.rank}", str(os.getpid()))
        if what == "train":
            train(world, folder, loader)
        else:
            WHAT[what](world, folder)


def loader_of(folder: Path) -> Iterator:
    loader = iter(DataLoader(Pids(folder), num_workers=2, worker_init_fn=shield_loader_process))
    for _ in range(2):  # one of each
        next(loader)
    return loader


def train(world: World, folder: Path, loader: Iterator) -> None:
    signals = StopSignals()
    signals.install()
    with signals.deferred():
        while not any(world.gather(signals.requested)):
            next(loader)
            time.sleep(0.02)
        for _ in range(50):
            next(loader)
            time.sleep(0.02)
        write(folder / f"stopped-{world.rank}", str(signals.requested))
        world.barrier()
    signals.raise_if_requested()


def collective(world: World, folder: Path) -> None:
    while True:
        world.barrier()
        time.sleep(0.05)


def hang_on_rank_1(world: World, folder: Path) -> None:
    signals = StopSignals()
    signals.install()
    with signals.deferred():
        for step in range(1_000):
            if (world.rank, step) == (1, 20):
                write(folder / "hangs", "")
                time.sleep(600)
            assert world.exchange((world.rank, step)) == [(rank, step) for rank in range(world.size)]


def collective_in_a_run(world: World, folder: Path) -> None:
    with supervised(folder / "run", world, print):
        collective(world, folder)


def fail_in_a_run_on_rank_0(world: World, folder: Path) -> None:
    with supervised(folder / "run", world, print):
        if world.rank == 0:
            raise DataError("shard 7 is damaged", "copy it again")
        collective(world, folder)


def sleep(world: World, folder: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher's; who is lost is known from the store alone
    time.sleep(120)


def fail_on_rank_1(world: World, folder: Path) -> None:
    if world.rank == 1:
        raise DataError("shard 7 is damaged", "copy it again")
    time.sleep(120)


def stop_on_rank_1(world: World, folder: Path) -> None:
    if world.rank == 1:
        raise Stopped("stopped on SIGUSR1")
    world.barrier()


def fail_on_rank_1_and_be_stopped(world: World, folder: Path) -> None:
    StopSignals().install()
    try:
        fail_on_rank_1(world, folder)
    except Stopped:
        write(folder / "elsewhere", str(world.failure_elsewhere()))
        raise


def finish(world: World, folder: Path) -> None:
    world.barrier()
    time.sleep(3 * world.rank)


WHAT = {
    "collective": collective,
    "hang": hang_on_rank_1,
    "supervised": collective_in_a_run,
    "own": fail_in_a_run_on_rank_0,
    "sleep": sleep,
    "raise": fail_on_rank_1,
    "stop": stop_on_rank_1,
    "fail": fail_on_rank_1_and_be_stopped,
    "finish": finish,
    "loaders": sleep,
}


def write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(run_rank(Path(sys.argv[1]), sys.argv[2], 60.0))
