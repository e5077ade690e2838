"""The launcher's variables and the interfaces: what would make the ranks wait for each other is named."""

import socket

import pytest

from padless.doctor.network import look_at_launcher, look_at_network

RANK = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def launcher(**variables):
    (finding,) = look_at_launcher({**RANK, **variables})
    return finding


def test_without_a_launcher_one_process_runs():
    (finding,) = look_at_launcher({})
    assert finding.state == "ok"


@pytest.mark.parametrize("name", list(RANK))
def test_a_variable_that_is_missing_is_named(name):
    (finding,) = look_at_launcher({key: value for key, value in RANK.items() if key != name})
    assert finding.state == "mend"
    assert finding.found.endswith(f", but {name} is not set")


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"RANK": "2"}, "RANK is not below WORLD_SIZE"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is not a number"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT is not a port"),
    ],
)
def test_numbers_that_cannot_be_are_named(variables, text):
    finding = launcher(**variables)
    assert finding.state == "mend"
    assert finding.found.endswith(text)


def test_a_machine_that_answers_is_ok_whether_or_not_somebody_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert launcher(MASTER_PORT=port).found.endswith("somebody listens there already")
    closed = launcher(MASTER_PORT=port)
    assert (closed.state, closed.found.endswith("nobody listens there yet")) == ("ok", True)


def test_an_address_that_does_not_exist_is_named():
    finding = launcher(MASTER_ADDR="no-such-machine.invalid")
    assert finding.state == "mend"
    assert "MASTER_ADDR=no-such-machine.invalid has no address" in finding.found


def test_an_interface_that_is_not_here_is_named():
    found = list(look_at_network({"NCCL_SOCKET_IFNAME": "nosuch0"}))
    assert found[0].state == "mend"
    assert found[0].found == "NCCL_SOCKET_IFNAME=nosuch0 is not an interface here"
    assert "lo" in str(found[0].remedy)


@pytest.mark.parametrize("asked", ["lo", "=lo", "^docker", "nosuch,lo"])
def test_an_interface_that_is_here_is_ok(asked):
    (finding,) = look_at_network({"GLOO_SOCKET_IFNAME": asked})
    assert finding.state == "ok"


def test_a_name_that_only_this_machine_knows_is_wrong_for_several(monkeypatch):
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "127.0.1.1")
    (alone,) = look_at_network({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"})
    (several,) = look_at_network({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"})
    assert (alone.state, several.state) == ("ok", "mend")
    assert "GLOO_SOCKET_IFNAME" in str(several.remedy)
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "10.0.0.7")
    (reachable,) = look_at_network({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"})
    assert reachable.state == "ok"


def test_a_name_without_an_address_is_no_crash(monkeypatch):
    def fail(name):
        raise socket.gaierror("no address")

    monkeypatch.setattr(socket, "gethostbyname", fail)
    (finding,) = look_at_network({})
    assert "is nowhere" in finding.found
