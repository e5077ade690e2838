"""Who is still there: a rank that ends, hangs or loses its machine ends the others within a stated time, by name.

Two daemon threads a rank, on a connection of their own to the ranks' store:

    exchange   every ``beat_s``: writes this rank's sign (a number, or how it left); reads those of rank 0 and of the
               ranks of this machine; rank 0 reads all. What one finds, it writes under "lost" for all.
    judge      twice a second: has somebody left with an error, died (the processes of this machine), been silent
               for ``timeout_s``, or is the store itself gone? The main thread gets ``GRACE_S`` to fail by itself,
               since gloo raises where NCCL waits; then this process ends with a line and its exit code.

So a lost rank ends the others at most ``timeout_s`` + 10 s after its last sign, and one whose process ended in about
10 s. A rank whose main thread hangs still signs; each sign carries how many exchanges of steps the main thread has come
to, so that a rank for which the others waited ``timeout_s`` in one has a name, and is told to end. A rank that leaves
by :meth:`Presence.leave` with code 0 is not lost. Silence is counted in time in which this process ran.
"""

import atexit
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from padless.errors import Stopped
from padless.processes import has_ended
from padless.train.join import Marks, Member

GRACE_S = 3.0  # for the main thread to fail by itself
_CLOSING_S = 30.0  # for the main thread to end once it fails
_TICK_S = 0.5
_ASKED_BEAT_S = 0.2
_CALLBACK_S = 10.0
_REMEDY = "look for its own error in the output; the same command goes on from the last checkpoint"


@dataclass(frozen=True)
class Loss:
    """Why this run cannot go on."""

    line: str  # names the rank, its process and host
    exit_code: int  # 2, or 85 where the rank was stopped by a signal


@dataclass
class _Sign:
    """What is known of one other rank."""

    member: Member
    text: bytes = b""
    changed_at_s: float = 0.0
    left: dict[str, Any] | None = None
    exchanges: int = 0
    dead_since_round: int | None = None


@dataclass
class _Wishes:
    """What the main thread wants of the two."""

    asked_at_s: float | None = None  # a collective has failed: who is it?
    asked_in_round: int = 0
    exchanges: int = 0  # of steps, that the main thread has come to
    waits_since_s: float | None = None  # in the last of them
    waited_s: float = 0.0  # in the one that failed
    leaving: dict[str, Any] | None = None
    wake: threading.Event = field(default_factory=threading.Event)
    found: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


class Presence:
    """The signs of life of all ranks, as this one sees them.

    Args:
        connect: makes a connection to padless' part of the store.
        rank: this rank.
        members: all ranks, in order.
        timeout_s: how long a rank may be silent.
        holder: who holds the store, as messages name it.
        rank_0_holds_store: whether that is rank 0.
        end: ends the process with a code.
    """

    def __init__(
        self,
        connect: Callable[[], Marks],
        rank: int,
        members: Sequence[Member],
        timeout_s: float,
        *,
        holder: str,
        rank_0_holds_store: bool,
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._connect, self._rank, self._members = connect, rank, members
        self._timeout_s, self._beat_s = timeout_s, min(2.0, timeout_s / 5)
        self._holder, self._rank_0_holds_store, self._end = holder, rank_0_holds_store, end
        self._signs = {member.rank: _Sign(member) for member in members if member.rank != rank}
        me = members[rank]
        near = {member.rank for member in members if member.pid_space == me.pid_space} - {rank}
        self._near = sorted(near)
        self._watched = sorted(self._signs if rank == 0 else near | {0})
        self._wishes = _Wishes()
        self._clock_s = 0.0  # advances while this process runs
        self._answered_at_s = 0.0
        self._rounds = 0
        self._store_error: str | None = None
        self._told: Loss | None = None  # by another rank
        self._loss: Loss | None = None
        self._loss_at_s = 0.0
        self.on_loss: Callable[[str, int], None] | None = None
        self._exchange_thread = threading.Thread(target=self._exchange, name="presence: exchange", daemon=True)

    def start(self) -> None:
        """Begin to give signs and to watch; the process's end counts as leaving."""
        self._exchange_thread.start()
        threading.Thread(target=self._judge, name="presence: judge", daemon=True).start()
        atexit.register(self._leave_at_exit)

    def explain(self, wait_s: float | None = None) -> Loss | None:
        """Return which rank made a collective fail, once it is known; None if all of them still give signs.

        The caller has to fail with it: the process is ended 30 s later.

        Args:
            wait_s: how long to wait for signs; None waits for six beats, 12 s at most.
        """
        since_s = self._wishes.waits_since_s
        self._wishes.waited_s = 0.0 if since_s is None else time.monotonic() - since_s
        self._wishes.asked_in_round = self._rounds
        self._wishes.asked_at_s = self._clock_s
        self._wishes.wake.set()
        until = time.monotonic() + (6 * self._beat_s if wait_s is None else wait_s)
        while not self._wishes.found.is_set() and (left_s := until - time.monotonic()) > 0:
            with contextlib.suppress(Stopped):  # from a launcher that ends all because of the lost one
                self._wishes.found.wait(left_s)
        return self._loss

    @contextlib.contextmanager
    def in_exchange(self) -> Iterator[None]:
        """Within, this rank waits for the others in the exchange of a step; all ranks come to the same exchanges."""
        self._wishes.exchanges += 1
        self._wishes.waits_since_s = time.monotonic()
        yield
        self._wishes.waits_since_s = None  # an exchange that failed is still to be explained

    def succeeds_leader(self) -> bool:
        """Return whether rank 0 ran on this machine and has ended, and this is the lowest rank here that has not."""
        before = [self._members[rank] for rank in self._near if rank < self._rank]
        return 0 in self._near and all(has_ended(each.pid, each.started_ticks) for each in before)

    def leave(self, exit_code: int = 0, why: str = "") -> None:
        """Say that this rank ends now, and with which code; further calls do nothing.

        Rank 0, where it holds the store, waits for the others to have left (10 s), or to have read an error.

        Args:
            exit_code: what the process will end with.
            why: the error, one line.
        """
        if self._wishes.leaving is not None:
            return
        self._wishes.leaving = {"left": exit_code, "why": why, "follows": self._loss is not None}
        self._wishes.wake.set()
        self._exchange_thread.join(10.0 + self._beat_s)
        self._wishes.ended.set()

    def _leave_at_exit(self) -> None:
        error = getattr(sys, "last_value", None)
        self.leave(0 if error is None else 1, f"{type(error).__name__}: {error}".splitlines()[0] if error else "")

    # -- the exchange -------------------------------------------------------------------------------------------------

    def _exchange(self) -> None:
        try:
            store = self._connect()
            while self._wishes.leaving is None:
                self._round(store)
                self._wishes.wake.wait(self._beat_s if self._wishes.asked_at_s is None else _ASKED_BEAT_S)
                self._wishes.wake.clear()
            self._say_goodbye(store, self._wishes.leaving)
        except RuntimeError as error:  # torch's own, of the connection
            self._store_error = str(error).splitlines()[0]

    def _round(self, store: Marks) -> None:
        store.set(self._key(self._rank), json.dumps({"beat": self._rounds + 1, "exchanges": self._wishes.exchanges}))
        if self._loss is not None and self._told is None:
            store.set("lost", json.dumps([self._loss.line, self._loss.exit_code]))
        ranks = self._watched if self._wishes.asked_at_s is None else sorted(self._signs)
        *texts, told = store.multi_get([*(self._key(rank) for rank in ranks), "lost"])
        for rank, text in zip(ranks, texts, strict=True):
            sign = self._signs[rank]
            if text != sign.text:
                sign.text, sign.changed_at_s = text, self._clock_s
                tree = json.loads(text)
                sign.left = tree if "left" in tree else None
                sign.exchanges = tree.get("exchanges", sign.exchanges)
        if told and self._loss is None:
            self._told = Loss(*json.loads(told))
        self._answered_at_s = self._clock_s
        self._rounds += 1

    def _say_goodbye(self, store: Marks, leaving: dict[str, Any]) -> None:
        store.set(self._key(self._rank), json.dumps(leaving))
        if not (self._rank == 0 and self._rank_0_holds_store):
            return
        until = time.monotonic() + (10.0 if leaving["left"] == 0 else self._beat_s + 1.0)
        keys = [self._key(rank) for rank in sorted(self._signs)]
        while time.monotonic() < until and not all(b'"left"' in text for text in store.multi_get(keys)):
            time.sleep(_ASKED_BEAT_S)

    @staticmethod
    def _key(rank: int) -> str:
        return f"sign/{rank}"

    # -- the judgement ------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        before = time.monotonic()
        while not self._wishes.ended.wait(_TICK_S):
            now = time.monotonic()
            self._clock_s += min(now - before, 2 * _TICK_S)
            before = now
            self._look_for_the_dead()
            if self._loss is None:
                self._loss, self._loss_at_s = self._find_loss(), self._clock_s
            if self._loss is None or self._wishes.leaving is not None:
                continue
            self._wishes.found.set()
            grace_s = GRACE_S if self._wishes.asked_at_s is None else _CLOSING_S
            if self._clock_s - self._loss_at_s >= grace_s:
                self._end_with(self._loss)
                return
        if self._wishes.leaving and self._wishes.leaving["left"] != 0:  # the main thread may hang in what it closes
            time.sleep(_CLOSING_S)
            self._end(self._wishes.leaving["left"])

    def _look_for_the_dead(self) -> None:
        for rank in self._near:
            sign = self._signs[rank]
            if sign.dead_since_round is None and has_ended(sign.member.pid, sign.member.started_ticks):
                sign.dead_since_round = self._rounds
                self._wishes.wake.set()

    def _find_loss(self) -> Loss | None:
        if self._told is not None:
            return self._told
        if self._is_over():
            return None
        asked_at_s = self._wishes.asked_at_s
        signs = [self._signs[rank] for rank in (self._watched if asked_at_s is None else sorted(self._signs))]
        failed = [sign for sign in signs if sign.left and sign.left["left"] != 0 and not sign.left["follows"]]
        if failed:
            return _left(failed[0])
        gone = [sign for sign in signs if sign.left is None and self._is_dead(sign)]
        if gone:
            return Loss(f"{_names(gone)} ended without a word (killed, or out of memory)", 2)
        limit_s, since_s = (self._timeout_s, 0.0) if asked_at_s is None else (3 * self._beat_s, asked_at_s)
        if self._store_error is not None or self._clock_s - self._answered_at_s >= limit_s:
            return self._store_loss(limit_s)
        silent = [s for s in signs if s.left is None and self._clock_s - max(s.changed_at_s, since_s) >= limit_s]
        if silent:
            return Loss(f"{_names(silent)} has not answered for {limit_s:g} s", 2)
        followed = [s for s in signs if s.left and (s.left["follows"] or asked_at_s is not None)]
        return _left(followed[0]) if followed else self._hanging_loss()

    def _hanging_loss(self) -> Loss | None:
        """Name who did not come to the exchange of a step for which this rank waited until it failed."""
        wishes = self._wishes
        is_read = wishes.asked_at_s is not None and self._rounds >= wishes.asked_in_round + 2
        behind = [s for s in self._signs.values() if s.left is None and s.exchanges < wishes.exchanges]
        if not behind or not is_read or wishes.waited_s < 0.9 * self._timeout_s:
            return None
        last = min(sign.exchanges for sign in behind)
        names = _names([sign for sign in behind if sign.exchanges == last])
        return Loss(
            f"{names} has not come to the exchange of a step for {self._timeout_s:g} s; "
            "its process runs, its main thread hangs",
            2,
        )

    def _is_over(self) -> bool:
        """Whether rank 0 left in good order and took the store with it: nothing is to be known any more."""
        left = self._signs[0].left if self._rank_0_holds_store and self._rank != 0 else None
        return left is not None and left["left"] == 0 and self._store_error is not None and not self._wishes.asked_at_s

    def _is_dead(self, sign: _Sign) -> bool:
        """Whether a process was found dead and its sign, read again since, does not say that it left."""
        seen = sign.dead_since_round
        return seen is not None and (self._rounds >= seen + 2 or self._store_error is not None)

    def _store_loss(self, limit_s: float) -> Loss:
        leader = self._signs.get(0)
        if self._rank_0_holds_store and leader is not None:
            name = str(leader.member)
        else:
            name = f"{self._holder}, which holds the ranks' store,"
        if self._store_error is not None:
            return Loss(f"{name} has ended ({self._store_error})", 2)
        return Loss(f"{name} has not answered for {limit_s:g} s", 2)

    def _end_with(self, loss: Loss) -> None:
        self._wishes.leaving = {"left": loss.exit_code, "why": loss.line, "follows": True}
        self._wishes.wake.set()
        self._exchange_thread.join(1.0)
        prefix = "" if self._rank == 0 else f"[rank {self._rank}] "
        kind = "error: " if loss.exit_code != Stopped.exit_code else ""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{prefix}{kind}{loss.line}; {_REMEDY}\n")
            sys.stderr.flush()
        if self.on_loss is not None:
            told = threading.Thread(target=self.on_loss, args=(loss.line, loss.exit_code), daemon=True)
            told.start()
            told.join(_CALLBACK_S)  # a file server may be what was lost
        self._end(loss.exit_code)


def _left(sign: _Sign) -> Loss:
    left = sign.left or {}
    if left.get("follows"):
        return Loss(str(left["why"]), int(left["left"]) or 2)
    why = f": {left['why']}" if left.get("why") else " before the others"
    code = Stopped.exit_code if left.get("left") == Stopped.exit_code else 2
    return Loss(f"{sign.member} has ended{why}", code)


def _names(signs: Sequence[_Sign]) -> str:
    """Return up to four ranks by name."""
    names = ", ".join(str(sign.member) for sign in signs[:4])
    return names if len(signs) <= 4 else f"{names} and {len(signs) - 4} more"
