"""CPUs, memory, shared memory and files: enough is ok, too little is named with what to do."""

import json
import resource
import tempfile

import pytest

from padless.doctor.host import (
    largest_pass_blocks,
    look_at_cpus,
    look_at_memory,
    look_at_shared_memory,
    look_at_temporary_folder,
    open_files_line,
    usable_cpus,
    usable_memory_bytes,
)

from .conftest import STREAMS, change_manifest, smoke


def test_a_container_s_limits_count(tmp_path):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    assert usable_cpus(tmp_path) <= 1.5
    assert usable_memory_bytes(tmp_path) == 1_000_000
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert usable_cpus(tmp_path) >= 1
    assert usable_memory_bytes(tmp_path) > 1_000_000


@pytest.mark.parametrize(
    ("threads", "ranks", "cpus", "load", "state", "text"),
    [
        (2, 1, 2.0, 0.1, "ok", "2 usable, 1 x 2 threads wanted, load 0.1"),
        (8, 2, 8.0, 0.1, "note", "hardware.num_threads=4 fits"),
        (1, 8, 4.0, 0.1, "note", "hardware.num_threads=1 fits"),
        (1, 1, 2.0, 5.0, "note", "others keep them busy"),
    ],
)
def test_threads_are_compared_with_cpus(threads, ranks, cpus, load, state, text):
    (finding,) = look_at_cpus(threads, ranks, cpus, load)
    assert (finding.state, text in finding.found) == (state, True)


def test_a_model_too_large_for_the_memory_is_named(tmp_path):
    assert next(iter(look_at_memory(smoke(tmp_path), 1, 0))).state == "ok"
    huge = smoke(tmp_path, "model.hidden_size=1000000", "model.intermediate_size=1000000")
    (finding,) = look_at_memory(huge, 1, 0)
    assert finding.state == "mend"
    assert "TiB needed" in finding.found


def test_the_weights_of_gpu_ranks_are_not_in_this_memory(tmp_path):
    def needed(ranks, *overrides):
        (finding,) = look_at_memory(smoke(tmp_path, *overrides), ranks, 0)
        return finding.found.rpartition(", at least ")[2]

    assert needed(8, "hardware.device=gpu") == needed(1, "hardware.device=gpu") == needed(1)
    assert needed(8) != needed(1)


def test_the_largest_pass_is_over_all_streams_of_a_phase(prepared):
    one = largest_pass_blocks(smoke(prepared)) // 3
    assert one > 10
    (prepared / "code" / "manifest.json").unlink()
    assert largest_pass_blocks(smoke(prepared)) == 2 * one


def test_shared_memory_too_small_for_the_data_is_named_with_the_size_to_ask_for(prepared):
    (finding,) = look_at_shared_memory(smoke(prepared), 1, 0)
    assert finding.state == "ok"
    for name in STREAMS:
        change_manifest(prepared / name, blocks=_with_many_blocks(prepared / name, 1 << 40))
    (finding,) = look_at_shared_memory(smoke(prepared), 1, 0)
    assert finding.state == "mend"
    assert "about 24 TiB needed" in finding.found
    assert "--shm-size=2" in str(finding.remedy)
    assert "docker's own is 64 MB" in str(finding.remedy)


def _with_many_blocks(folder, count):
    blocks = json.loads((folder / "manifest.json").read_text())["blocks"]
    for splits in blocks.values():
        splits["train"]["num_blocks"] = splits["train"]["num_segments"] = count
    return blocks


def test_several_gpu_ranks_need_more_of_it(tmp_path):
    config = smoke(tmp_path, "hardware.device=gpu")
    one, eight = (next(iter(look_at_shared_memory(config, ranks, 0))) for ranks in (1, 8))
    assert "about 16 MiB needed" in one.found
    assert "about 1.016 GiB needed" in eight.found


def test_no_shared_memory_at_all_is_named(tmp_path):
    (finding,) = look_at_shared_memory(smoke(tmp_path), 1, 0, tmp_path / "shm")
    assert (finding.state, finding.found) == ("mend", f"{tmp_path / 'shm'} does not exist")


@pytest.mark.parametrize(
    ("soft", "hard", "state", "remedy"),
    [
        (1024, 4096, "ok", None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, "ok", None),
        (512, 4096, "note", None),
        (64, 4096, "mend", "ulimit -n 65536"),
        (64, 64, "mend", "raise the hard limit (limits.conf, or docker --ulimit nofile=65536)"),
    ],
)
def test_few_open_files_are_named(soft, hard, state, remedy):
    finding = open_files_line(soft, hard)
    assert (finding.state, finding.remedy) == (state, remedy)


def test_a_temporary_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    assert next(iter(look_at_temporary_folder())).state == "ok"
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    (finding,) = look_at_temporary_folder()
    assert finding.state == "mend"
    assert finding.found == f"{tmp_path / 'gone'}: No such file or directory"
