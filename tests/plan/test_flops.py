"""The arithmetic of a step agrees with the matrix products that torch counts, ours and transformers'."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from padless.config.schema import RopeConfig
from padless.data.batch import PackedBatch
from padless.model.count import count_parameters
from padless.model.masked_lm import MaskedLM
from padless.plan.calibration import preset
from padless.plan.flops import attended_pairs, attention_flops, forward_flops, step_flops
from small_shape import small_shape

# whole segments, since dense kernels compute all pairs and all of them are counted
WIDE_WINDOW = small_shape(local_window_tokens=1024)
LENGTHS = (30, 1, 90, 17)


def counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def test_a_forward_pass_has_the_matrix_products_of_our_model():
    masked_lm = MaskedLM(WIDE_WINDOW, RopeConfig(160_000.0, 10_000.0), "reference").eval()
    borders = torch.tensor([0, *LENGTHS]).cumsum(0)
    positions_M = torch.tensor([2, 5, 40, 41, 120])
    ids_T, labels_M = torch.zeros(sum(LENGTHS), dtype=torch.int64), torch.zeros(5, dtype=torch.int64)
    batch = PackedBatch(ids_T, borders.int(), positions_M, labels_M, LENGTHS, max(LENGTHS), sum(LENGTHS), 5)
    with torch.no_grad():
        assert counted(lambda: masked_lm.logits_at(batch)) == forward_flops(WIDE_WINDOW, LENGTHS, 5)
        assert counted(lambda: masked_lm.encode(batch)) == forward_flops(WIDE_WINDOW, LENGTHS)


@pytest.mark.slow
def test_a_step_has_the_matrix_products_of_transformers_where_nothing_is_padded():
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    peer = ModernBertForMaskedLM(
        ModernBertConfig(
            vocab_size=128,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=2,
            local_attention=1024,
            pad_token_id=0,
            sparse_prediction=True,
            reference_compile=False,
            attn_implementation="eager",
        )
    )
    labels_BL = torch.full((3, 50), -100)
    labels_BL[0, :7] = 1
    ids_BL = torch.ones((3, 50), dtype=torch.int64)

    def step():
        peer(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL), labels=labels_BL).loss.backward()

    rope_angles = 4 * 2 * 8 * 50  # a product of 8 frequencies and 50 positions in each layer
    assert counted(step) - rope_angles == step_flops(WIDE_WINDOW, (50, 50, 50), 7)


@pytest.mark.parametrize("window_tokens", [2, 3, 16, 17, 128])
@pytest.mark.parametrize("lengths", [(1,), (8, 9, 10), (64, 65, 66), (200, 3)])
def test_pairs_are_those_of_the_mask(lengths, window_tokens):
    allowed = 0
    for length in lengths:
        place_L = torch.arange(length)
        allowed += int(((place_L[:, None] - place_L[None, :]).abs() <= window_tokens // 2).sum())
    assert attended_pairs(lengths, window_tokens) == allowed
    assert attended_pairs(lengths, None) == sum(length**2 for length in lengths)


def test_a_window_and_fewer_masked_tokens_are_less_work():
    narrow = replace(WIDE_WINDOW, local_window_tokens=16)
    saved = forward_flops(WIDE_WINDOW, LENGTHS) - forward_flops(narrow, LENGTHS)
    assert saved == 2 * 2 * 2 * 32 * (attended_pairs(LENGTHS, None) - attended_pairs(LENGTHS, 16))
    assert step_flops(narrow, LENGTHS, 9) - step_flops(narrow, LENGTHS, 8) == 3 * 2 * 32 * (32 + 128)


def test_a_step_has_the_matrix_products_of_our_module_forward_and_backward():
    masked_lm = MaskedLM(WIDE_WINDOW, RopeConfig(160_000.0, 10_000.0), "reference").train()
    borders = torch.tensor([0, *LENGTHS]).cumsum(0)
    positions_M = torch.tensor([2, 5, 40, 41, 120])
    ids_T, labels_M = torch.zeros(sum(LENGTHS), dtype=torch.int64), torch.zeros(5, dtype=torch.int64)
    batch = PackedBatch(ids_T, borders.int(), positions_M, labels_M, LENGTHS, max(LENGTHS), sum(LENGTHS), 5)

    def step():
        torch.nn.functional.cross_entropy(masked_lm.logits_at(batch), labels_M).backward()

    assert counted(step) == step_flops(WIDE_WINDOW, LENGTHS, 5)


@pytest.mark.parametrize("name", ["17m", "base", "large", "1b"])
def test_a_presets_parameters_and_matrix_products_are_those_of_its_module(name):
    model = replace(preset(name), local_window_tokens=4096)
    with torch.device("meta"):
        masked_lm = MaskedLM(model, RopeConfig(160_000.0, 10_000.0), "reference")
        hidden_TD = torch.zeros(24, model.hidden_size)
    assert sum(parameter.numel() for parameter in masked_lm.parameters()) == count_parameters(model).total
    weights = [layer.weight for layer in masked_lm.model.layers.modules() if isinstance(layer, torch.nn.Linear)]
    products = counted(
        lambda: (
            [torch.zeros(24, weight.shape[1], device="meta") @ weight.t() for weight in weights]
            + [masked_lm.decoder(masked_lm.head(hidden_TD[:7]))]
        )
    )
    assert products == forward_flops(model, (24,), 7) - attention_flops(model, (24,))
