"""Memory against what torch saves in the real layer, and the largest microbatch against the published ones."""

import pytest
import torch

from padless.checkpoint import expected_bytes
from padless.config.compose import compose
from padless.errors import ConfigError
from padless.model.compiled import after_attention, before_attention
from padless.model.count import count_parameters
from padless.plan.calibration import preset
from padless.plan.hardware import parse_machine
from padless.plan.memory import (
    CHECKPOINT_BYTES_A_PARAMETER,
    gib_text,
    kept_bytes_a_token,
    largest_microbatch,
    memory_need,
    need_of,
)

TOKENS = 512
PARTITIONED = "aot_eager_decomp_partition"  # decides what is saved as the default backend does, and generates no code


def bytes_saved_of_a_layer(model, compile):
    """What autograd keeps of a layer's two halves a token, weights left out, and attention's own tensors added."""
    width, inner = model.hidden_size, model.intermediate_size
    shapes = {"wqkv": (3 * width, width), "wo": (width, width), "wi": (2 * inner, width), "wo2": (width, inner)}
    weights = {name: torch.randn(shape, requires_grad=True) for name, shape in shapes.items()}
    norm_D = torch.ones(width, requires_grad=True)
    hidden_TD = torch.randn(TOKENS, width, requires_grad=True)
    out_TD = torch.randn(TOKENS, width, dtype=torch.bfloat16, requires_grad=True)
    seen = {}

    def keep(tensor):
        if tensor.shape[:1] == (TOKENS,) and tensor.dim() == 2:  # weights have other shapes
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    before, after = compile(before_attention), compile(after_attention)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        first = before(hidden_TD, norm_D, 1e-5, weights["wqkv"])
        second_in_TD = hidden_TD.detach().clone().requires_grad_()  # the sum after attention is a tensor of its own
        second = after(out_TD, second_in_TD, norm_D, 1e-5, (weights["wo"], weights["wi"], weights["wo2"]), (0.0, 0.0))
    assert first.grad_fn is not None
    assert second.grad_fn is not None
    halves = sum(seen.values()) / TOKENS
    return halves + 2 * 3 * width + 4 * model.num_heads  # attention: rotated qkv in bf16, log-sums in fp32


def small():
    from dataclasses import replace

    return replace(preset("17m"), hidden_size=128, num_heads=2, intermediate_size=192, attention_out_dropout=0.0)


def test_a_layer_keeps_what_torch_saves():
    model = small()
    counted = kept_bytes_a_token(model, is_compiled=False)
    assert bytes_saved_of_a_layer(model, lambda function: function) == pytest.approx(counted, rel=0.03)


@pytest.mark.slow
def test_a_compiled_layer_keeps_less_as_torch_does():
    model = small()
    counted = kept_bytes_a_token(model, is_compiled=True)
    assert counted < kept_bytes_a_token(model, is_compiled=False)
    saved = bytes_saved_of_a_layer(model, lambda function: torch.compile(function, backend=PARTITIONED, dynamic=False))
    assert saved == pytest.approx(counted, rel=0.03)


def test_the_published_microbatches_fit_an_h100():
    machine = parse_machine("8xh100")
    assert (
        largest_microbatch(compose(["recipe=modernbert_large"]), machine) == 8
    )  # published: 56 rows of 1024, 7 blocks
    assert largest_microbatch(compose(["recipe=modernbert_base"]), machine) == 17  # published: 96 rows, 12 blocks


def test_the_parts_add_up_and_recomputing_keeps_less():
    model = preset("base")
    need = memory_need(model, 8192, 0.3, 8)
    parameters = count_parameters(model).total
    assert need.weights + need.gradients + need.moments == 16 * parameters
    assert need.total == need.fixed + need.activations
    assert need.activations_recomputed < need.activations / 3
    assert memory_need(model, 8192, 0.3, 1).buckets == 0
    assert memory_need(model, 8192, 0.3, 1, is_fp32=True).low_weights == 0
    assert memory_need(model, 2 * 8192, 0.3, 8).activations == 2 * need.activations


def test_a_checkpoint_has_the_size_that_a_save_expects():
    parameters = 149_000_000
    assert CHECKPOINT_BYTES_A_PARAMETER * parameters == pytest.approx(expected_bytes(parameters), rel=0.001)


def test_what_does_not_fit_names_the_smallest_gpu_that_has_room():
    with pytest.raises(ConfigError, match=r"one block of 8192 tokens needs .* GiB, one t4 has 13.8 GiB") as error:
        largest_microbatch(compose(["recipe=modernbert_large"]), parse_machine("1xt4"))
    assert error.value.remedy.startswith("gpus=1xa10 (22.5 GiB) is the smallest that has it")


def test_where_no_gpu_has_room_the_model_is_too_large():
    config = compose(["recipe=modernbert_large", "data.block_tokens=8388608"])
    with pytest.raises(ConfigError, match="one block of 8388608 tokens") as error:
        largest_microbatch(config, parse_machine("1xt4"))
    assert error.value.remedy == "take a smaller model="


def test_a_cpus_memory_is_not_known():
    assert largest_microbatch(compose([]), parse_machine("2xcpu")) is None


def test_usable_memory_is_a_share_of_what_the_driver_reports():
    h100 = parse_machine("1xh100")
    assert gib_text(h100.device.memory_bytes) == "79.6 GiB"
    assert h100.device.memory_gb == pytest.approx(85.5, abs=0.05)
    assert h100.usable_bytes == pytest.approx(0.92 * h100.device.memory_bytes)


def test_the_mask_rate_of_a_branch_counts():
    lower, higher = (
        need_of(compose(["recipe=demo_branches", f"branches.code.masking.rate={rate}"]), parse_machine("1xcpu"), 4)
        for rate in (0.1, 0.5)
    )
    assert higher.activations > lower.activations


def test_the_largest_mask_rate_counts():
    lower, higher = (
        need_of(compose([f"phases.anneal.masking.rate={rate}"]), parse_machine("1xcpu"), 4) for rate in (0.1, 0.5)
    )
    assert higher.activations > lower.activations
