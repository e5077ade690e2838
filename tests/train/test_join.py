"""A meeting of ranks that fails says who is missing."""

import os
import socket
import threading

import pytest

from padless.errors import ConfigError, TrainingError
from padless.train.join import MeetingPoint, check_in

HERE = f"(pid {os.getpid()} on {socket.gethostname()})"


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def points(size, port):
    return [MeetingPoint(rank, size, "127.0.0.1", port, agent_holds_store=False, attempt="0") for rank in range(size)]


def join(point, timeout_s, found):
    try:
        store = point.open(timeout_s)
        found[point.rank] = check_in(point, point.marks(store), timeout_s), store
    except TrainingError as error:
        found[point.rank] = error


def meet(points, timeout_s):
    """Have ranks meet, each in a thread, and return what became of each."""
    found = {}
    threads = [threading.Thread(target=join, args=(point, timeout_s, found)) for point in points]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_all_ranks_get_everybodys_host_and_process():
    found = meet(points(3, free_port()), timeout_s=60)
    for members, _ in found.values():
        assert [str(member) for member in members] == [f"rank {rank} {HERE}" for rank in range(3)]


def test_a_rank_that_never_arrives_is_named_on_all_that_have():
    found = meet(points(4, free_port())[:3], timeout_s=1)
    cause = f"rank 3 of 4 never arrived (waited 1 s); there are rank 0 {HERE}, rank 1 {HERE}, rank 2 {HERE}"
    assert [found[rank].cause for rank in range(3)] == [cause] * 3
    assert "look for that rank's own error" in found[0].remedy


def test_a_rank_0_that_never_arrives_is_named_with_its_address():
    port = free_port()
    with pytest.raises(
        TrainingError, match=rf"rank 1: rank 0 at 127.0.0.1:{port} has not answered for 0.5 s \(.*\n.*fire"
    ):
        points(2, port)[1].open(0.5)


def test_torchruns_agent_that_does_not_answer_is_named_as_such():
    point = MeetingPoint(0, 2, "127.0.0.1", free_port(), agent_holds_store=True, attempt="0")
    with pytest.raises(TrainingError, match=r"rank 0: the first node's torchrun at .* has not answered for 0.5 s"):
        point.open(0.5)


def test_a_port_that_is_taken_is_an_error_with_the_address():
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TrainingError, match=rf"rank 0 cannot listen at 127.0.0.1:{port} \(.*\n.*another port"):
            points(2, port)[0].open(1)


def test_a_store_that_ends_while_ranks_join_is_named():
    class Gone:
        def set(self, key, value):
            raise RuntimeError("Connection reset by peer")

    with pytest.raises(TrainingError, match=r"rank 1: rank 0 at 127.0.0.1:1 has ended while ranks were still joining"):
        check_in(points(2, 1)[1], Gone(), 1)


def test_several_ranks_without_a_launchers_variables_are_refused(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    assert MeetingPoint.from_environment() == MeetingPoint(0, 2, "127.0.0.1", 1, False, "0")
    monkeypatch.delenv("MASTER_ADDR")
    with pytest.raises(ConfigError, match=r"several ranks, but no MASTER_ADDR\n.*composer or torchrun"):
        MeetingPoint.from_environment()
