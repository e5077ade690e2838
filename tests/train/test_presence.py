"""What one rank concludes from the signs of the others; the others are entries in a real store."""

import json
import os
import threading
import time

import pytest
from torch.distributed import TCPStore

from padless.processes import pid_space, started_ticks
from padless.train import presence as module
from padless.train.join import MeetingPoint, Member
from padless.train.presence import Loss, Presence


class Scene:
    """A store with the signs of ranks that are not this process."""

    def __init__(self, rank, size, rank_0_holds_store, timeout_s, last):
        self.server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.point = MeetingPoint(rank, size, "127.0.0.1", self.server.port, not rank_0_holds_store, "0")
        self.store = self.point.marks(self.point.connect())
        self.members = [Member(other, f"node-{other}", 100 + other, "elsewhere", 1) for other in range(size)]
        self.members[rank] = Member(rank, "here", os.getpid(), pid_space(), started_ticks(os.getpid()))
        self.members = self.members[:-1] + ([last] if last else self.members[-1:])
        for other in range(size):
            self.sign(other, beat=0)
        self.store.set("lost", "")
        self.codes, self.told, self.ended = [], [], threading.Event()
        self.presence = Presence(
            lambda: self.point.marks(self.point.connect()),
            rank,
            self.members,
            timeout_s,
            holder=self.point.holder,
            rank_0_holds_store=rank_0_holds_store,
            end=self.end,
        )
        self.presence.on_loss = lambda line, code: self.told.append((line, code))

    def sign(self, rank, **tree):
        self.store.set(f"sign/{rank}", json.dumps(tree))

    def end(self, code):
        self.codes.append(code)
        self.ended.set()

    def outcome(self):
        assert self.ended.wait(30)
        return self.told[0]


@pytest.fixture
def scene(monkeypatch):
    monkeypatch.setattr(module, "GRACE_S", 0.1)
    scenes = []

    def begin(rank=0, size=3, rank_0_holds_store=False, timeout_s=1.0, last=None):
        scenes.append(Scene(rank, size, rank_0_holds_store, timeout_s, last))
        return scenes[-1]

    yield begin
    for each in scenes:
        each.presence.leave()


def test_a_silent_rank_is_named_and_the_beating_one_is_not(scene, capsys):
    it = scene()
    stop = threading.Event()

    def beat():
        number = 0
        while not stop.wait(0.05):
            number += 1
            it.sign(1, beat=number)

    beating = threading.Thread(target=beat)
    beating.start()
    it.presence.start()
    line, code = it.outcome()
    stop.set()
    beating.join()
    assert (line, code, it.codes) == ("rank 2 (pid 102 on node-2) has not answered for 1 s", 2, [2])
    assert capsys.readouterr().err.startswith(f"error: {line}; look for its own error in the output; the same command")
    assert json.loads(it.store.get("lost")) == [line, 2]  # the other ranks read it here


def test_what_another_rank_has_found_ends_this_one_with_the_same_line(scene, capsys):
    it = scene(rank=2, timeout_s=60)
    it.presence.start()
    it.store.set("lost", json.dumps(["rank 1 (pid 101 on node-1) has not answered for 180 s", 2]))
    assert it.outcome() == ("rank 1 (pid 101 on node-1) has not answered for 180 s", 2)
    assert capsys.readouterr().err.startswith("[rank 2] error: rank 1 (pid 101 on node-1) has not")


def test_a_rank_that_left_with_an_error_ends_the_others_with_its_words(scene):
    it = scene(timeout_s=60)
    it.presence.start()
    it.sign(2, left=2, why="shard 7 is damaged", follows=False)
    assert it.outcome() == ("rank 2 (pid 102 on node-2) has ended: shard 7 is damaged", 2)


def test_a_rank_that_was_stopped_by_a_signal_ends_the_others_with_85(scene, capsys):
    it = scene(timeout_s=60)
    it.presence.start()
    it.sign(2, left=85, why="stopped on SIGTERM", follows=False)
    assert it.outcome() == ("rank 2 (pid 102 on node-2) has ended: stopped on SIGTERM", 85)
    assert capsys.readouterr().err.startswith("rank 2 (pid 102")  # no error


def test_a_rank_that_left_because_of_another_is_not_the_one_that_is_named(scene):
    it = scene(timeout_s=60)
    it.sign(1, left=2, why="rank 2 (pid 102 on node-2) ended without a word", follows=True)
    it.presence.start()
    assert it.outcome() == ("rank 2 (pid 102 on node-2) ended without a word", 2)


def test_a_process_of_this_machine_that_is_gone_is_named_long_before_the_timeout(scene):
    gone = Member(2, "here", os.getpid(), pid_space(), (started_ticks(os.getpid()) or 0) - 1)  # its pid is used again
    it = scene(timeout_s=60, last=gone)
    it.presence.start()
    assert it.outcome() == (f"{gone} ended without a word (killed, or out of memory)", 2)


def test_a_store_that_ends_names_who_held_it(scene):
    it = scene(rank=1, timeout_s=60)
    it.presence.start()
    while it.presence._rounds == 0:
        time.sleep(0.02)
    del it.store, it.server
    line, code = it.outcome()
    holder = f"the first node's torchrun at 127.0.0.1:{it.point.port}, which holds the ranks' store,"
    assert line.startswith(f"{holder} has ended (")
    assert code == 2


def test_a_rank_0_that_leaves_in_good_order_may_take_its_store_with_it(scene):
    it = scene(rank=1, rank_0_holds_store=True)
    it.sign(0, left=0, why="", follows=False)
    it.presence.start()
    while not it.presence._signs[0].left:
        time.sleep(0.02)
    del it.store, it.server
    it.presence._exchange_thread.join()  # it has met the end of the store
    assert not it.ended.wait(2.5)  # more than the timeout, the grace and a tick


def test_a_failed_collective_is_explained_by_the_rank_that_stopped_giving_signs(scene):
    it = scene(rank=1, timeout_s=5)  # beats of 1 s: rank 2 is suspected after 3, long before anybody else would act
    it.presence.start()
    stop = threading.Event()

    def beat():
        number = 0
        while not stop.wait(0.05):
            number += 1
            it.sign(0, beat=number)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        loss = it.presence.explain()
    finally:
        stop.set()
        beating.join()
    assert loss == Loss("rank 2 (pid 102 on node-2) has not answered for 3 s", 2)
    it.presence.leave(2, loss.line)
    assert json.loads(it.store.get("sign/1")) == {"left": 2, "why": loss.line, "follows": True}
    assert it.codes == []


def test_a_failed_collective_of_ranks_that_all_still_beat_has_no_rank_to_name(scene):
    it = scene(size=2, timeout_s=1)
    it.presence.start()
    stop = threading.Event()

    def beat():
        number = 0
        while not stop.wait(0.02):
            number += 1
            it.sign(1, beat=number)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        assert it.presence.explain() is None
    finally:
        stop.set()
        beating.join()


def fail_in_exchange(presence, after_s):
    with presence.in_exchange():
        time.sleep(after_s)
        raise RuntimeError("timed out")


def test_a_rank_that_signs_and_does_not_come_to_the_exchange_is_named_and_those_that_came_are_not(scene):
    it = scene(timeout_s=1)
    stop = threading.Event()

    def beat():
        number = 0
        while not stop.wait(0.02):
            number += 1
            it.sign(1, beat=number, exchanges=2)
            it.sign(2, beat=number, exchanges=1)

    beating = threading.Thread(target=beat)
    beating.start()
    it.presence.start()
    try:
        with it.presence.in_exchange():
            pass
        with pytest.raises(RuntimeError, match="timed out"):
            fail_in_exchange(it.presence, after_s=1.1)
        loss = it.presence.explain()
    finally:
        stop.set()
        beating.join()
    cause = "rank 2 (pid 102 on node-2) has not come to the exchange of a step for 1 s"
    assert loss == Loss(f"{cause}; its process runs, its main thread hangs", 2)


def test_an_exchange_that_fails_at_once_does_not_blame_a_rank_that_is_only_later(scene):
    it = scene(size=2, timeout_s=1)
    stop = threading.Event()

    def beat():
        number = 0
        while not stop.wait(0.02):
            number += 1
            it.sign(1, beat=number, exchanges=0)

    beating = threading.Thread(target=beat)
    beating.start()
    it.presence.start()
    try:
        with pytest.raises(RuntimeError, match="timed out"):
            fail_in_exchange(it.presence, after_s=0.0)
        assert it.presence.explain() is None
    finally:
        stop.set()
        beating.join()


def test_the_lowest_rank_of_rank_0s_machine_that_lives_stands_in_for_it(scene):
    started = started_ticks(os.getpid()) or 0
    gone = [Member(rank, "here", os.getpid(), pid_space(), started - 1) for rank in (0, 1)]
    alive = Member(1, "here", os.getpid(), pid_space(), started)
    it = scene(rank=2)
    it.presence.start()
    assert not it.presence.succeeds_leader()  # rank 0 is on another machine
    for members, succeeds in (([gone[0], gone[1]], True), ([gone[0], alive], False)):
        presence = Presence(
            lambda: it.store,
            2,
            [*members, it.members[2]],
            1.0,
            holder=it.point.holder,
            rank_0_holds_store=False,
        )
        assert presence.succeeds_leader() is succeeds


def test_leaving_is_written_down_once_and_with_the_reason(scene):
    it = scene(timeout_s=60)
    it.presence.start()
    it.presence.leave(2, "disk full")
    it.presence.leave(0)
    assert json.loads(it.store.get("sign/0")) == {"left": 2, "why": "disk full", "follows": False}


def test_a_main_thread_that_hangs_in_what_it_closes_after_an_error_is_ended_with_the_errors_code(scene, monkeypatch):
    monkeypatch.setattr(module, "_CLOSING_S", 0.2)
    it = scene(timeout_s=60)
    it.presence.start()
    it.presence.leave(2, "disk full")
    assert it.ended.wait(10)
    assert it.codes == [2]


def test_a_main_thread_that_hangs_after_it_was_told_who_is_lost_is_ended(scene, monkeypatch):
    monkeypatch.setattr(module, "_CLOSING_S", 0.5)
    it = scene(timeout_s=60)
    it.presence.start()
    it.sign(2, left=2, why="disk full", follows=False)
    assert it.presence.explain() == Loss("rank 2 (pid 102 on node-2) has ended: disk full", 2)
    assert it.outcome() == ("rank 2 (pid 102 on node-2) has ended: disk full", 2)
