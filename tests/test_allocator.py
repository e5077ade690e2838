import os
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


PRODUCTS = """
import torch
from padless.attention.select import get_backend
get_backend("blocked")
for _ in range(2):
    for rows in range(32, 1312, 32):  # 40 shapes
        x = torch.zeros(rows, 64, dtype=torch.bfloat16)
        x @ x.t()
"""


def test_kernels_are_kept_for_few_shapes():
    environment = {"ONEDNN_VERBOSE": "all", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PRODUCTS]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    built = result.stdout.count("create:cache_miss")
    if built == 0:
        pytest.skip("bf16 products are not oneDNN's here")
    assert built == 80  # none of 40 is still there after the 39 others


@pytest.mark.parametrize("name", ["ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY"])
def test_a_number_of_kernels_that_the_environment_sets_is_left_alone(name, monkeypatch):
    for each in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "100")
    allocator.keep_few_kernels()
    assert {key: value for key, value in os.environ.items() if "PRIMITIVE_CACHE" in key} == {name: "100"}
