"""Machines as people write them."""

import pytest

from padless.config.compose import compose
from padless.errors import ConfigError
from padless.plan.devices import GPUS, gpu_of_driver
from padless.plan.hardware import machine_of, machine_of_group, parse_machine


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("8xh100", 8, "h100"),
        ("h100", 1, "h100"),
        ("4 x RTX 4090", 4, "rtx4090"),
        ("2x8xa100", 16, "a100"),
        ("3xL40S", 3, "l40s"),
        ("2xcpu", 2, "cpu"),
    ],
)
def test_any_count_of_any_gpu_is_read(text, count, name):
    machine = parse_machine(text)
    assert (machine.count, machine.device.name) == (count, name)


def test_a_gpu_that_is_not_in_the_table_names_the_nearest():
    with pytest.raises(ConfigError, match="no GPU 'h10' in the table") as error:
        parse_machine("8xh10")
    assert error.value.remedy.startswith("did you mean h100?")


@pytest.mark.parametrize("text", ["8x", "8 h10", "8*b300", ""])
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(ConfigError, match="is no number of GPUs"):
        parse_machine(text)


def test_no_gpu_at_all_is_refused():
    with pytest.raises(ConfigError, match="0 x h100 is no hardware"):
        parse_machine("0xh100")


def test_between_machines_the_network_is_slower_and_can_be_told():
    assert parse_machine("16xh100").link_gb_s < parse_machine("8xh100").link_gb_s
    assert machine_of(GPUS["h100"], 16, link_gb_s=25.0).link_gb_s == 25.0


@pytest.mark.parametrize(
    ("group", "name"), [("8xh100", "8xh100"), ("2x8xh100", "16xh100"), ("cpu", "1xcpu"), ("1xgpu", "1xrtx4090")]
)
def test_files_of_hardware_are_machines(group, name):
    machine = machine_of_group(group, compose([f"hardware={group}"]).hardware)
    assert machine is not None
    assert machine.name == name
    assert (machine.remark is None) == (group != "1xgpu")


def test_hardware_that_names_nothing_is_none():
    assert machine_of_group("auto", compose([]).hardware) is None


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("Tesla T4", "t4"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA A10G", None),
        ("NVIDIA A100-SXM4-40GB", None),
        ("NVIDIA A100-PCIE-40GB", None),
        ("NVIDIA A100 80GB PCIe", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA H200", "h200"),
    ],
)
def test_a_drivers_name_is_a_gpu_of_the_table(driver, name):
    found = gpu_of_driver(driver)
    assert (None if found is None else found.name) == name


@pytest.mark.parametrize(
    ("text", "right"),
    [("h100x8", "8xh100"), ("8 h100", "8xh100"), ("8*h100", "8xh100"), ("4 RTX 4090", "4xrtx4090"), ("cpux2", "2xcpu")],
)
def test_count_and_gpu_in_another_order_get_the_right_one(text, right):
    with pytest.raises(ConfigError, match="is not written as a count, an x and a GPU") as error:
        parse_machine(text)
    assert error.value.remedy == f"did you mean {right}?"


def test_a_capital_x_counts_too():
    assert parse_machine("8XH100").name == "8xh100"
    assert parse_machine("2X8xH100").name == "16xh100"
