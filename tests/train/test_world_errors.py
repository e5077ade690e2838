"""An error that only one rank meets is seen, and no rank is left waiting for it."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from composer.devices import DeviceCPU

from padless.config.schema import HardwareConfig
from padless.errors import ConfigError, TrainingError
from padless.train.world import World, adopt_torchrun_environment, start_world

WORKER = Path(__file__).with_name("world_error_worker.py")
LAUNCHERS = {
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "composer": [str(Path(sys.executable).parent / "composer"), "-n", "2"],
}


@pytest.mark.slow
@pytest.mark.world
@pytest.mark.composer
@pytest.mark.parametrize("launcher", list(LAUNCHERS))
def test_an_error_of_rank_1_alone_is_printed_and_ends_all_ranks(launcher):
    began_s = time.monotonic()
    done = subprocess.run(
        [*LAUNCHERS[launcher], str(WORKER), "1"],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "[rank 1] error: shard 7 of rank 1 is damaged\n  remedy: copy it again" in output, output[-3000:]
    assert time.monotonic() - began_s < 150


def test_a_gpu_that_is_not_there_and_other_ranks_than_checked_are_refused(monkeypatch):
    cpu = HardwareConfig("cpu", 3, 1, "fp32", "sdpa", False, None, True, 60.0, "off")
    with pytest.raises(ConfigError, match=r"world_size=3, but the launcher started 1 ranks\n.*start 3 ranks"):
        start_world(cpu)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"hardware.device=gpu, but torch sees no GPU\n.*hardware=cpu"):
        start_world(HardwareConfig("gpu", None, 1, "fp32", "sdpa", False, None, True, 60.0, "off"))


@pytest.mark.parametrize("name", ["gather", "exchange", "barrier"])
def test_a_lost_rank_is_named_on_the_others_and_other_faults_keep_their_type(monkeypatch, name):
    def closed(*arguments, **more):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:21732")

    def broken(*arguments, **more):
        raise RuntimeError("Invalid scalar type")

    world = World(0, 2, DeviceCPU(), gloo=object(), step_gloo=object())
    call = {"gather": lambda: world.gather(1), "exchange": lambda: world.exchange(1), "barrier": world.barrier}[name]
    function = "barrier" if name == "barrier" else "all_gather_object"
    monkeypatch.setattr(f"torch.distributed.{function}", closed)
    with pytest.raises(TrainingError, match=r"another rank has ended .*Connection closed by peer.*\n.*last checkpoint"):
        call()
    monkeypatch.setattr(f"torch.distributed.{function}", broken)
    with pytest.raises(RuntimeError, match="Invalid scalar type"):
        call()


def test_torchruns_name_for_the_node_is_adopted(monkeypatch):
    monkeypatch.setenv("GROUP_RANK", "3")
    monkeypatch.setenv("NODE_RANK", "")  # so that what is adopted goes with the test
    monkeypatch.delenv("NODE_RANK")
    adopt_torchrun_environment()
    assert os.environ["NODE_RANK"] == "3"
    monkeypatch.setenv("GROUP_RANK", "4")
    adopt_torchrun_environment()
    assert os.environ["NODE_RANK"] == "3"


@pytest.mark.parametrize(
    ("rank", "joined", "printed"), [("0", False, "error: a"), ("1", False, ""), ("1", True, "[rank 1] error: a")]
)
def test_other_ranks_than_the_first_print_only_after_they_have_joined(monkeypatch, capsys, rank, joined, printed):
    from padless.cli import exit_code_of

    def fail():
        raise ConfigError("a", "b")

    state = SimpleNamespace(is_available=lambda: True, is_initialized=lambda: joined)
    monkeypatch.setitem(sys.modules, "torch.distributed", state)
    monkeypatch.setenv("RANK", rank)
    assert exit_code_of(fail) == 2
    assert capsys.readouterr().err == (f"{printed}\n  remedy: b\n" if printed else "")


def test_a_single_rank_has_nobody_to_tell_and_nobody_to_lose():
    with World(0, 1, DeviceCPU(), None, ("here",)) as world:
        world.when_a_rank_is_lost(lambda line, code: pytest.fail("nobody is lost"))
        assert world.gather("mine") == world.exchange("mine") == ["mine"]
        assert not world.succeeds_leader()
        assert world.failure_elsewhere() is None
        with world.naming_lost_ranks():
            world.barrier()


def test_ranks_that_have_met_and_cannot_reach_each_other_are_told_of_their_interfaces(monkeypatch):
    def refused(*arguments, **more):
        raise RuntimeError("Gloo connectFullMesh failed with [../gloo/transport/tcp/pair.cc:144] no error")

    monkeypatch.setattr("torch.distributed.barrier", refused)
    with pytest.raises(TrainingError, match=r"connectFullMesh failed.*\n.*GLOO_SOCKET_IFNAME"):
        World(0, 2, DeviceCPU(), gloo=object()).barrier()
