"""One core, and the one on which least runs."""

import os
import subprocess
import sys

import pytest

from padless.bench.machine import cpu_seconds, describe_machine, least_busy_core, matmul_ceiling_gflops

PIN = "import os, torch; from padless.bench.machine import pin_to_one_core; pin_to_one_core({}); "
PIN += "print(sorted(os.sched_getaffinity(0)), torch.get_num_threads())"
linux = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs sched_getaffinity")


@linux
@pytest.mark.slow
def test_a_pinned_process_has_one_core_and_one_thread():
    for asked in ("", str(max(os.sched_getaffinity(0)))):
        done = subprocess.run([sys.executable, "-c", PIN.format(asked)], capture_output=True, text=True, check=True)
        core = int(asked) if asked else min(os.sched_getaffinity(0))
        assert done.stdout.split() == [f"[{core}]", "1"]


@linux
def test_the_least_busy_core_is_one_of_ours():
    assert least_busy_core(0.05) in os.sched_getaffinity(0)


def test_waiting_costs_no_processor_time():
    import time

    assert cpu_seconds(lambda: time.sleep(0.2)) < 0.2


@pytest.mark.slow
def test_the_ceiling_is_a_rate():
    assert matmul_ceiling_gflops("float32", 1) > 0.1


def test_the_machine_is_described_with_versions():
    assert {"processor", "python", "torch", "commit"} <= set(describe_machine())
