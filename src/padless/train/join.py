"""Ranks find each other at the launcher's store and say who they are, before any collective could wait in silence.

The store is the one that ``init_process_group`` would make itself: in ``torchrun``'s agent, or else in rank 0. It is
made here so that a rank that never arrives has a name, and is then handed to ``init_process_group``.
"""

import contextlib
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Protocol, cast

from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]  # documented

from padless.errors import ConfigError, TrainingError
from padless.processes import pid_space, started_ticks

_POLL_S = 0.2
_LINGER_S = 1.5  # how long the store outlives a failed meeting, so that the others read why
_OPERATION = timedelta(seconds=60)


class Marks(Protocol):
    """What padless uses of a store; torch's own type does not declare all of it."""

    def set(self, key: str, value: str) -> None:
        """Write a value."""
        ...

    def get(self, key: str) -> bytes:
        """Read a value, and wait for it."""
        ...

    def add(self, key: str, amount: int) -> int:
        """Add to a number and return it."""
        ...

    def check(self, keys: list[str]) -> bool:
        """Return whether all keys have values."""
        ...

    def multi_get(self, keys: list[str]) -> list[bytes]:
        """Read several values, and wait for them."""
        ...


@dataclass(frozen=True)
class Member:
    """One rank and the process that it is."""

    rank: int
    host: str
    pid: int
    pid_space: str
    started_ticks: int | None

    @classmethod
    def this_process(cls, rank: int) -> "Member":
        """Describe this process as ``rank``."""
        return cls(rank, socket.gethostname(), os.getpid(), pid_space(), started_ticks(os.getpid()))

    def __str__(self) -> str:
        """Return the rank as messages name it."""
        return f"rank {self.rank} (pid {self.pid} on {self.host})"


@dataclass(frozen=True)
class MeetingPoint:
    """Where the launcher wants the ranks to meet."""

    rank: int
    size: int
    address: str
    port: int
    agent_holds_store: bool  # torchrun's agent; otherwise rank 0
    attempt: str  # a restarted group must not read the marks of the one before

    @classmethod
    def from_environment(cls) -> "MeetingPoint":
        """Read it from the launcher's variables.

        Raises:
            ConfigError: a variable is missing.
        """
        missing = [name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise ConfigError(
                f"the environment has several ranks, but no {missing[0]}", "start the ranks with composer or torchrun"
            )
        environment = os.environ
        return cls(
            rank=int(environment["RANK"]),
            size=int(environment["WORLD_SIZE"]),
            address=environment["MASTER_ADDR"],
            port=int(environment["MASTER_PORT"]),
            agent_holds_store=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            attempt=environment.get("TORCHELASTIC_RESTART_COUNT", "0"),
        )

    @property
    def holds_store(self) -> bool:
        """Whether this rank's process holds the store."""
        return self.rank == 0 and not self.agent_holds_store

    @property
    def holder(self) -> str:
        """Who holds the store, as messages name it."""
        who = "the first node's torchrun" if self.agent_holds_store else "rank 0"
        return f"{who} at {self.address}:{self.port}"

    def open(self, timeout_s: float) -> Store:
        """Start or reach the store.

        Args:
            timeout_s: how long to wait for whoever holds it.

        Raises:
            TrainingError: it does not answer in time, or its port is taken.
        """
        if not self.holds_store:
            self._wait_until_it_answers(timeout_s)
            return self.connect()
        try:
            return TCPStore(
                self.address,
                self.port,
                self.size,
                is_master=True,
                timeout=_OPERATION,
                wait_for_workers=False,
                multi_tenant=True,
                use_libuv=os.environ.get("USE_LIBUV", "1") == "1",
            )
        except RuntimeError as error:
            raise TrainingError(
                f"rank 0 cannot listen at {self.address}:{self.port} ({str(error).splitlines()[0]})",
                "choose another port (composer --master_port, torchrun --master-port), or end the process that has it",
            ) from error

    def connect(self) -> Store:
        """Return a connection of its own to the store, which is there."""
        return TCPStore(self.address, self.port, self.size, is_master=False, timeout=_OPERATION, wait_for_workers=False)

    def marks(self, store: Store) -> Marks:
        """Return the part of ``store`` that is padless' own."""
        return cast("Marks", PrefixStore(f"padless/{self.attempt}", store))

    def _wait_until_it_answers(self, timeout_s: float) -> None:
        """Knock until somebody listens: quiet, and open to stop signals, which torch's own wait is not."""
        until = time.monotonic() + timeout_s
        while True:
            try:
                socket.create_connection((self.address, self.port), timeout=min(5.0, timeout_s)).close()
            except OSError as error:
                if time.monotonic() >= until:
                    raise TrainingError(
                        f"rank {self.rank}: {self.holder} has not answered for {timeout_s:g} s ({error})",
                        "see whether rank 0 runs and what it printed; check the master's address, port and firewall",
                    ) from error
                time.sleep(_POLL_S)
            else:
                return


def check_in(point: MeetingPoint, marks: Marks, timeout_s: float) -> tuple[Member, ...]:
    """Say that this rank is there and return all ranks once they all are.

    Args:
        point: where the ranks meet.
        marks: padless' part of the store.
        timeout_s: how long to wait for the last rank.

    Raises:
        TrainingError: ranks have not arrived in time; they are named, on every rank that has.
    """
    try:
        marks.set(f"member/{point.rank}", json.dumps(asdict(Member.this_process(point.rank))))
        marks.set(f"sign/{point.rank}", "{}")
        if point.rank == 0:
            marks.set("lost", "")
        marks.add("joined", 1)
        until = time.monotonic() + timeout_s
        while marks.add("joined", 0) < point.size:
            if marks.check(["given_up"]):
                raise _absent(marks.get("given_up").decode())
            if time.monotonic() >= until:
                raise _give_up(point, marks, timeout_s)
            time.sleep(_POLL_S)
        found = marks.multi_get([f"member/{rank}" for rank in range(point.size)])
    except RuntimeError as error:
        raise TrainingError(
            f"rank {point.rank}: {point.holder} has ended while ranks were still joining",
            "look for its own error in the output; the same command starts again",
        ) from error
    return tuple(Member(**json.loads(text)) for text in found)


def _give_up(point: MeetingPoint, marks: Marks, timeout_s: float) -> TrainingError:
    """Name the ranks that are missing, to the other ranks too."""
    ranks = [rank for rank in range(point.size) if not marks.check([f"member/{rank}"])]
    present = [rank for rank in range(point.size) if rank not in ranks]
    known = [str(Member(**json.loads(text))) for text in marks.multi_get([f"member/{rank}" for rank in present[:8]])]
    names = ", ".join(str(rank) for rank in ranks)
    line = f"rank {names} of {point.size} never arrived (waited {timeout_s:g} s); there are {', '.join(known)}"
    with contextlib.suppress(RuntimeError):
        marks.set("given_up", line)
    if point.holds_store:
        time.sleep(_LINGER_S)
    return _absent(line)


def _absent(line: str) -> TrainingError:
    return TrainingError(
        line, "look for that rank's own error in its node's output; start as many ranks as the launcher was told"
    )
