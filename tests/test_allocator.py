import subprocess
import sys

import pytest

from padless import allocator

FAULTS = """
import resource, sys
import numpy as np
from padless.allocator import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "kept" else False)
for _ in range(3):
    np.ones(40_000_000 // 8)  # 40 MB: above what glibc keeps by itself
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    np.ones(40_000_000 // 8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults_of(how: str) -> tuple[str, int]:
    # Malloc variables of the caller would decide instead; huge pages would hide the difference.
    environment = {"NUMPY_MADVISE_HUGEPAGE": "0"}
    command = [sys.executable, "-c", FAULTS, how]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    told, faults = result.stdout.split()
    return told, int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_freed_memory_is_used_again_without_page_faults():
    assert faults_of("given back")[1] > 5 * 40_000_000 // 4096 // 2
    told, faults = faults_of("kept")
    assert told == "True"
    assert faults < 500


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD"])
def test_an_allocator_that_the_environment_sets_is_left_alone(name, monkeypatch):
    monkeypatch.setenv(name, "1")
    assert not allocator.keep_freed_memory()
