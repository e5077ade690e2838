"""A run's checkpoints by short names."""

import pytest

from padless.checkpoint.named import checkpoint_by_name
from padless.errors import CheckpointError


@pytest.fixture
def run(save, tmp_path):
    return {clock: save(phase, clock) for phase, clock in (("short", 900), ("short", 51_200), ("anneal", 1_351_680))}


def test_the_newest_and_one_of_a_phase_are_found_by_clock_in_full_or_as_it_is_listed(run, tmp_path, monkeypatch):
    assert checkpoint_by_name(f"{tmp_path}@latest") == run[1_351_680]
    for text in ("51_200", "51200", "51.2K"):
        assert checkpoint_by_name(f"{tmp_path}/short@{text}") == run[51_200]
    assert checkpoint_by_name(f"{tmp_path}/anneal@1.352M") == run[1_351_680]
    (tmp_path / "here" / "runs").mkdir(parents=True)
    (tmp_path / "here" / "runs" / "mine").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path / "here")
    assert checkpoint_by_name("mine@latest").samefile(run[1_351_680])
    assert checkpoint_by_name("mine/short@900").samefile(run[900])


def test_what_is_no_name_of_a_run_is_left_to_others(run, tmp_path):
    for text in ("modernbert-base@latest", "owner/name@main", str(tmp_path), "@latest", f"{tmp_path}@", "a"):
        assert checkpoint_by_name(text) is None


def test_a_clock_without_a_checkpoint_is_answered_with_those_there_are(run, tmp_path):
    with pytest.raises(CheckpointError, match=r"has no such whole checkpoint\n.*newest: short@900, short@51_200$"):
        checkpoint_by_name(f"{tmp_path}/short@77")
    with pytest.raises(
        CheckpointError, match=r"no such whole checkpoint\n.*short@900, short@51_200, anneal@1_351_680$"
    ):
        checkpoint_by_name(f"{tmp_path}/stable@latest-but-one")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("short@51_000", "short@51_200"),  # near as a number
        ("short@51.3K", "short@51_200"),
        ("anneal@1_351_608", "anneal@1_351_680"),
        ("short@512_00_0", "short@51_200"),  # near by its digits
        ("anneal@1.352MM", "anneal@1_351_680"),
        ("aneal@1_351_680", "anneal@1_351_680"),  # of another phase
    ],
)
def test_a_clock_that_is_nearly_a_checkpoints_is_answered_with_it_first(run, tmp_path, written, meant):
    with pytest.raises(
        CheckpointError, match=rf"remedy: did you mean {tmp_path}/{meant}\? Else give one of its newest: "
    ):
        checkpoint_by_name(f"{tmp_path}/{written}")


def test_two_that_are_listed_alike_are_told_apart_by_the_full_clock(run, save, tmp_path):
    save("anneal", 1_351_700)
    with pytest.raises(
        CheckpointError, match=r"has 2 whole checkpoints of this name\n.*anneal@1_351_680, anneal@1_351_"
    ):
        checkpoint_by_name(f"{tmp_path}/anneal@1.352M")


def test_damaged_ones_are_not_taken(run, tmp_path):
    run[1_351_680].write_bytes(b"cut")
    assert checkpoint_by_name(f"{tmp_path}@latest") == run[51_200]
    for path in run.values():
        path.write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"has no whole checkpoint\n.*padless checkpoints"):
        checkpoint_by_name(f"{tmp_path}@latest")
