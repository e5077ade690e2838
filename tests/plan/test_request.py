"""Arguments of a plan: taken apart, and checked before anything is counted."""

import pytest

from padless.errors import ConfigError
from padless.plan.request import parse_request, prepare


def ready(*arguments):
    return prepare(parse_request(arguments))


def test_own_settings_are_not_hydras(tmp_path):
    out = tmp_path / "plan.png"
    request = parse_request(["recipe=demo", "gpus=4xl40s", "price=1.5", f"out={out}", "lengths=full", "link_gb_s=12"])
    assert request.overrides == ("recipe=demo",)
    assert (request.gpus, request.price, request.out, request.lengths) == ("4xl40s", 1.5, out, "full")
    assert (request.link_gb_s, request.fit, request.measure) == (12.0, None, False)
    assert parse_request(["--measure=True"]).measure
    assert parse_request(["--fit=8xh100, 3 days"]).fit == "8xh100, 3 days"


def test_hardware_without_a_file_is_a_machine_and_one_with_a_file_is_hydras():
    assert parse_request(["hardware=4xl40s"]).gpus == "4xl40s"
    assert parse_request(["hardware=8xh100"]).overrides == ("hardware=8xh100",)
    with pytest.raises(ConfigError, match="there is no hardware called 'cpus'"):
        ready("hardware=cpus")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gpus="], "gpus has no value"),
        (["gpus=8xh100", "hardware=8xh100"], "gpus=8xh100 and hardware=8xh100 both name the hardware"),
        (["gpus=8xh100", "gpus=4xl4"], "gpus is given twice"),
        (["gpus=8xh100", "hardware=4xl4"], "gpus=8xh100 and hardware=4xl4 both name the hardware"),
        (["price=2", "price=3"], "price is given twice"),
        (["gpu=8xh100"], "unknown setting gpu=8xh100, did you mean gpus=8xh100"),
        (["prize=2"], "unknown setting prize=2, did you mean price=2"),
        (["price=cheap"], "price=cheap is not a positive number"),
        (["link_gb_s=0"], "link_gb_s=0 is not a positive number"),
        (["lengths=webb"], "lengths=webb is not an assumption about lengths"),
        (["out=plan.pdf"], r"out=plan\.pdf does not end in \.png"),
        (["out=no/such/plan.png"], "out=no/such/plan.png: there is no folder no/such"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse_request(arguments)


def test_the_nearest_assumption_is_named():
    with pytest.raises(ConfigError) as error:
        parse_request(["lengths=webb"])
    assert error.value.remedy == "did you mean lengths=web? use one of: web, long, full"


def test_nothing_named_is_a_core_for_a_small_run_and_8_h100_for_a_large_one():
    for arguments, name in (((), "1xcpu"), (("recipe=modernbert_base",), "8xh100")):
        found = ready(*arguments)
        assert found.machine.name == name
        assert found.remarks == (f"no hardware was named: {name} assumed; name yours with e.g. gpus=4xl40s",)


def test_the_microbatch_is_the_files_or_the_largest_that_divides_and_fits():
    assert ready("recipe=modernbert_base", "hardware=8xh100").microbatch_blocks == 12
    found = ready("recipe=modernbert_base", "gpus=4xl40s")
    assert found.largest_blocks is not None
    assert (96 // 4) % found.microbatch_blocks == 0
    assert found.microbatch_blocks <= found.largest_blocks
    assert ready("recipe=modernbert_base", "gpus=4xl40s", "hardware.microbatch_blocks=2").microbatch_blocks == 2


def test_a_file_whose_microbatch_does_not_fit_is_planned_with_one_that_does():
    found = ready("recipe=modernbert_base", "hardware=8xh100", "data.block_tokens=65536")
    assert found.microbatch_blocks < 12
    assert found.remarks[0].startswith(f"planned with hardware.microbatch_blocks={found.microbatch_blocks}")


def test_a_microbatch_that_does_not_fit_names_one_that_does():
    with pytest.raises(ConfigError, match=r"hardware\.microbatch_blocks=24 needs .* GiB, one h100 has") as error:
        ready("recipe=modernbert_base", "gpus=4xh100", "hardware.microbatch_blocks=24")
    assert error.value.remedy == "hardware.microbatch_blocks=12 fits, or take a GPU with more memory"


def test_a_batch_that_cannot_be_cut_names_numbers_of_ranks_that_can():
    with pytest.raises(ConfigError, match="is not a multiple of ranks x") as error:
        ready("recipe=modernbert_base", "gpus=7xh100")
    assert "numbers of ranks that divide all phases: 1, 2, 3, 4, 6, 8" in error.value.remedy


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        (["hardware.precision=bf16"], r"hardware\.precision=bf16: t4 has no bf16", "precision=fp16"),
        (["hardware.attention_backend=flash"], r"attention_backend=flash: FlashAttention 2 needs Ampere", "=auto"),
    ],
)
def test_what_a_t4_cannot_run_is_refused(arguments, message, remedy):
    with pytest.raises(ConfigError, match=message) as error:
        ready("recipe=modernbert_base", "gpus=8xt4", *arguments)
    assert remedy in error.value.remedy


def test_settings_that_a_plan_cannot_follow_are_refused_or_said():
    with pytest.raises(ConfigError, match=r"gpus=8xh100 has 8 ranks and hardware\.world_size=4 has others"):
        ready("recipe=modernbert_base", "gpus=8xh100", "hardware.world_size=4")
    assert ready("recipe=modernbert_base", "gpus=8xh100", "hardware.world_size=8").machine.count == 8
    with pytest.raises(ConfigError, match=r"run\.branch=code: a plan is of the phases and of all branches"):
        ready("recipe=demo_branches", "run.branch=code")
    remarks = ready("recipe=modernbert_base", "gpus=8xh100", "run.stop_after_tokens=1B").remarks
    assert remarks == ("run.stop_after_tokens=1B is not counted: all figures are of whole phases",)


def test_precision_is_the_devices():
    assert ready("recipe=modernbert_base", "gpus=8xt4").config.hardware.precision == "fp16"
    assert ready("recipe=modernbert_base", "gpus=8xl4").config.hardware.precision == "bf16"
    assert ready("gpus=1xcpu").config.hardware.precision == "fp32"


def test_fp32_on_a_gpu_has_no_rate():
    with pytest.raises(ConfigError, match=r"hardware\.precision=fp32: the table has no fp32 rate of h100"):
        ready("recipe=modernbert_base", "gpus=8xh100", "hardware.precision=fp32")


def test_a_link_that_is_told_is_used():
    assert ready("recipe=modernbert_base", "gpus=8xh100", "link_gb_s=12").machine.link_gb_s == 12.0
