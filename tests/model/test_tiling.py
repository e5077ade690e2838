from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import SMALL, draw_weights, logits_of
from transformers import ModernBertConfig, ModernBertForMaskedLM

from padless.errors import ModelError
from padless.model import tiling
from padless.model.axis_tiling import tile_axis
from padless.model.growth import plan_growth
from padless.model.tensor_shapes import DECODER, EMBEDDING, check_state_dict, tensor_shapes
from padless.model.tiling import SymmetryNoise, tile_state_dict
from padless.model.tiling_report import tiling_table


def grow(source_model, target_model, scale="fan_in", seed=0, noise=None, **how):
    source, target = draw_weights(source_model, seed), draw_weights(target_model, seed + 1)
    return (
        source,
        target,
        *tile_state_dict(source, target, plan_growth(source_model, target_model, scale, **how), noise),
    )


def build_network(model):
    config = ModernBertConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        local_attention=model.local_window_tokens,
        pad_token_id=0,
        cls_token_id=1,
        bos_token_id=1,
        sep_token_id=2,
        eos_token_id=2,
        reference_compile=False,
        attn_implementation="eager",
    )
    return ModernBertForMaskedLM(config).eval()


@settings(max_examples=25, deadline=None)
@given(
    heads=st.integers(1, 3),
    half_width=st.integers(1, 4),
    layers=st.integers(3, 7),
    intermediate=st.integers(1, 9),
    scale=st.sampled_from(["fan_in", "published"]),
)
def test_equal_sizes_are_the_identity(heads, half_width, layers, intermediate, scale):
    model = replace(
        SMALL,
        num_heads=heads,
        hidden_size=heads * 2 * half_width,
        num_layers=layers,
        intermediate_size=intermediate,
    )
    source, _, tiled, rows = grow(model, model, scale)
    assert tiled.keys() == source.keys()
    assert all(torch.equal(tiled[name], source[name]) for name in source)
    assert {row.how for row in rows} == {"copied"}


def test_four_layers_of_256_into_six_of_384_leaves_nothing_random():
    source_model = replace(SMALL, hidden_size=256, num_heads=4, intermediate_size=384)
    target_model = replace(SMALL, hidden_size=384, num_heads=6, intermediate_size=576, num_layers=6)
    _, target, tiled, rows = grow(source_model, target_model)
    assert tiled.keys() == target.keys()
    assert all(tiled[name].shape == target[name].shape for name in target)
    assert {row.name for row in rows} == set(tensor_shapes(target_model))
    assert {row.how for row in rows} == {"tiled", "copied"}
    assert [row.name for row in rows if row.how == "copied"] == ["decoder.bias"]
    for name, values in tiled.items():
        share_unchanged = (values == target[name]).double().mean()
        assert share_unchanged < 1e-3, f"{name} still holds initial values"


@pytest.mark.parametrize("target_layers", [4, 6, 12])
def test_deeper_only_copies_whole_layers(target_layers):
    target_model = replace(SMALL, num_layers=target_layers)
    source, _, tiled, rows = grow(SMALL, target_model)
    assert {row.how for row in rows} == {"copied"}
    assert all(torch.equal(tiled[row.name], source[row.source_name]) for row in rows)


def test_norm_that_source_layer_0_lacks_comes_from_the_embedding_norm():
    source, _, tiled, _ = grow(SMALL, replace(SMALL, num_layers=12))
    assert torch.equal(tiled["model.layers.3.attn_norm.weight"], source["model.embeddings.norm.weight"])
    assert torch.equal(tiled["model.layers.6.attn_norm.weight"], source["model.layers.3.attn_norm.weight"])


def test_query_key_value_stay_apart_and_heads_stay_whole():
    source_model = replace(SMALL, hidden_size=4, num_heads=2)
    target_model = replace(SMALL, hidden_size=6, num_heads=3)
    source, target = draw_weights(source_model, 0), draw_weights(target_model, 1)
    name = "model.layers.1.attn.Wqkv.weight"
    # Row value 100 p + 10 h + e for part p of (query, key, value), head h, feature e; the same in every column.
    row_values = torch.tensor([100 * p + 10 * h + e for p in range(3) for h in range(2) for e in range(2)])
    source[name] = row_values[:, None].expand(12, 4).to(torch.float32).contiguous()
    tiled, _ = tile_state_dict(source, target, plan_growth(source_model, target_model, "published"))
    heads = [0, 1, 0]  # centre tiling of 2 heads into 3: offset 0, then wrapped
    expected = [100 * p + 10 * h + e for p in range(3) for h in heads for e in range(2)]
    assert tiled[name][:, 0].tolist() == expected


def test_output_projection_reads_heads_in_the_same_order():
    source_model = replace(SMALL, hidden_size=4, num_heads=2)
    target_model = replace(SMALL, hidden_size=8, num_heads=4)
    source, target = draw_weights(source_model, 0), draw_weights(target_model, 1)
    name = "model.layers.2.attn.Wo.weight"
    source[name] = torch.tensor([0.0, 1.0, 10.0, 11.0]).expand(4, 4).contiguous()
    tiled, _ = tile_state_dict(source, target, plan_growth(source_model, target_model, "published"))
    assert tiled[name][0].tolist() == [10.0, 11.0, 0.0, 1.0, 10.0, 11.0, 0.0, 1.0]  # heads 1 0 1 0, each whole


def test_geglu_halves_stay_apart():
    source_model = replace(SMALL, intermediate_size=2)
    target_model = replace(SMALL, intermediate_size=4)
    source, target = draw_weights(source_model, 0), draw_weights(target_model, 1)
    name = "model.layers.1.mlp.Wi.weight"
    source[name] = torch.tensor([1.0, 2.0, 51.0, 52.0])[:, None].expand(4, 16).contiguous()
    tiled, _ = tile_state_dict(source, target, plan_growth(source_model, target_model))
    assert tiled[name][:, 0].tolist() == [2.0, 1.0, 2.0, 1.0, 52.0, 51.0, 52.0, 51.0]


def test_fan_in_divides_by_the_multiplicity_of_what_is_read():
    source_model, target_model = SMALL, replace(SMALL, intermediate_size=18)
    source, _, tiled, rows = grow(source_model, target_model)
    name = "model.layers.1.mlp.Wo.weight"
    axis = tile_axis(12, 18)
    for column, position in enumerate(axis.source_positions_N.tolist()):
        times = float(axis.multiplicity_N[column])
        torch.testing.assert_close(tiled[name][:, column] * times, source[name][:, position])
    (row,) = [row for row in rows if row.name == name]
    assert row.input_multiplicity == (1, 2)
    assert row.is_divided


@pytest.mark.parametrize("factor", [2, 3])
def test_fan_in_keeps_the_function_when_the_width_is_multiplied(factor):
    target_model = replace(SMALL, hidden_size=16 * factor, num_heads=2 * factor, intermediate_size=12 * factor)
    source, _, tiled, _ = grow(SMALL, target_model)
    # Exact in theory (all multiplicities equal); the tolerance is fp32 rounding over four layers.
    torch.testing.assert_close(logits_of(tiled, target_model), logits_of(source, SMALL), atol=1e-4, rtol=1e-4)


def test_published_scale_does_not_keep_the_function():
    target_model = replace(SMALL, hidden_size=32, num_heads=4, intermediate_size=24)
    source, _, tiled, rows = grow(SMALL, target_model, "published")
    assert not any(row.is_divided for row in rows)
    assert (logits_of(tiled, target_model) - logits_of(source, SMALL)).abs().max() > 1.0


def test_wider_mlp_alone_keeps_the_function_at_any_multiplicity():
    target_model = replace(SMALL, intermediate_size=31)
    source, _, tiled, _ = grow(SMALL, target_model)
    torch.testing.assert_close(logits_of(tiled, target_model), logits_of(source, SMALL), atol=1e-4, rtol=1e-4)


def test_larger_vocabulary_keeps_its_new_rows_random_and_says_so():
    target_model = replace(SMALL, vocab_size=128)
    source, target, tiled, rows = grow(SMALL, target_model)
    assert torch.equal(tiled[EMBEDDING][:64], source[EMBEDDING])
    assert torch.equal(tiled[EMBEDDING][64:], target[EMBEDDING][64:])
    assert torch.equal(tiled["decoder.bias"][64:], target["decoder.bias"][64:])
    random_rows = {row.name for row in rows if "random" in row.how}
    assert random_rows == {EMBEDDING, "decoder.bias"}
    assert "new vocabulary rows random" in tiling_table(rows)


def test_tied_decoder_stays_tied():
    target_model = replace(SMALL, hidden_size=32, num_heads=4)
    source, target = draw_weights(SMALL, 0), draw_weights(target_model, 1)
    source[DECODER], target[DECODER] = source[EMBEDDING], target[EMBEDDING]
    tiled, rows = tile_state_dict(source, target, plan_growth(SMALL, target_model))
    assert tiled[DECODER] is tiled[EMBEDDING]
    assert rows[-1].how == "tied"


def test_report_names_every_tensor_once():
    target_model = replace(SMALL, hidden_size=24, num_heads=3, num_layers=12)
    _, _, _, rows = grow(SMALL, target_model)
    text = tiling_table(rows)
    assert "model.layers.{0-11}.attn.Wqkv.weight" in text
    assert "model.layers.{3}.attn_norm.weight" in text
    assert "tiled from model.embeddings.norm.weight" in text
    assert "1 to 2" in text


def test_other_head_width_is_an_error_that_names_the_right_number_of_heads():
    with pytest.raises(ModelError, match=r"source's are 8 wide, the target's 12\n.*use hidden_size=24 num_heads=3, so"):
        grow(SMALL, replace(SMALL, hidden_size=24, num_heads=2))


def test_heads_that_do_not_divide_the_hidden_size_are_an_error():
    with pytest.raises(ModelError, match="target hidden_size=24 is not a multiple of num_heads=5"):
        grow(SMALL, replace(SMALL, hidden_size=24, num_heads=5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 8, "num_heads": 1}, "hidden_size 16 > 8, num_heads 2 > 1"),
        ({"intermediate_size": 8}, "intermediate_size 12 > 8"),
        ({"vocab_size": 32}, "vocab_size 64 > 32"),
        ({"num_layers": 3}, "num_layers 4 > 3"),
    ],
)
def test_a_source_that_is_too_big_is_refused_with_the_nearest_target_that_works(change, message):
    with pytest.raises(ModelError, match=f"the source is too big to tile from: {message}\n") as caught:
        grow(SMALL, replace(SMALL, **change))
    assert "model.num_layers=4 model.hidden_size=16 model.num_heads=2 model.intermediate_size=12" in caught.value.remedy


def test_tensor_without_a_rule_is_an_error_not_random():
    with pytest.raises(ModelError, match=r"no tiling rule covers the tensor model\.layers\.0\.moe\.router"):
        tiling._rule_for("model.layers.0.moe.router", plan_growth(SMALL, SMALL).axes)


def test_centre_keeps_the_edges_random_and_says_how_much():
    target_model = replace(SMALL, hidden_size=32, num_heads=4, intermediate_size=24)
    source, target, tiled, rows = grow(SMALL, target_model, mode="centre")
    name = "model.layers.1.mlp.Wi.weight"
    expected = target[name].clone()
    expected[6:18, 8:24], expected[30:42, 8:24] = source[name][:12], source[name][12:]
    assert torch.equal(tiled[name], expected)
    (row,) = [row for row in rows if row.name == name]
    assert (row.how, row.random_share, row.is_divided) == ("copied, edges random", 0.75, False)
    assert "75 %" in tiling_table(rows)


def test_edge_repeats_from_the_first_position():
    target_model = replace(SMALL, hidden_size=24, num_heads=3)
    source, _, tiled, rows = grow(SMALL, target_model, "published", mode="edge")
    assert torch.equal(tiled[EMBEDDING], source[EMBEDDING][:, [*range(16), *range(8)]])
    assert {row.random_share for row in rows} == {0}


def test_edge_puts_what_wrap_has_into_another_order_when_the_width_is_multiplied():
    target_model = replace(SMALL, hidden_size=32, num_heads=4, intermediate_size=24)
    ways = [logits_of(grow(SMALL, target_model, mode=mode)[2], target_model) for mode in ("wrap", "edge")]
    torch.testing.assert_close(*ways, atol=1e-4, rtol=1e-4)


def test_centre_with_a_larger_vocabulary_says_both():
    target_model = replace(SMALL, hidden_size=32, num_heads=4, vocab_size=128)
    *_, rows = grow(SMALL, target_model, mode="centre")
    how = {row.name: (row.how, row.random_share) for row in rows}
    assert how[EMBEDDING] == ("copied, edges and new vocabulary rows random", 0.75)
    assert how["decoder.bias"] == ("copied, new vocabulary rows random", 0.5)


def test_noise_is_on_further_copies_in_matrices_alone_and_of_the_size_asked_for():
    target_model = replace(SMALL, intermediate_size=512)
    _, _, plain, _ = grow(SMALL, target_model)
    _, _, noisy, _ = grow(SMALL, target_model, noise=SymmetryNoise(0.1, 5))
    is_copy_N = tile_axis(12, 512).is_copy_N
    changed = [name for name in plain if not torch.equal(plain[name], noisy[name])]
    assert changed == [f"model.layers.{layer}.mlp.{part}.weight" for layer in range(4) for part in ("Wi", "Wo")]
    for name in changed:
        difference = noisy[name] - plain[name]
        along_N = difference.abs().sum(dim=0) if name.endswith("Wo.weight") else difference.abs().sum(dim=1)
        assert torch.equal(along_N > 0, is_copy_N if name.endswith("Wo.weight") else is_copy_N.repeat(2))
        share = difference[difference != 0].std() / plain[name].std()
        assert float(share) == pytest.approx(0.1, rel=0.05)


def test_noise_is_a_function_of_the_seed():
    target_model = replace(SMALL, hidden_size=32, num_heads=4)
    name = "model.layers.0.attn.Wqkv.weight"
    first, again, other = (grow(SMALL, target_model, noise=SymmetryNoise(0.1, seed))[2][name] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_silent_layers_put_out_nothing_and_the_report_says_so():
    target_model = replace(SMALL, num_layers=6, hidden_size=32, num_heads=4)
    *_, tiled, rows = grow(SMALL, target_model, repeated="silent", noise=SymmetryNoise(0.1, 5))
    zero = {name for name, tensor in tiled.items() if not tensor.any()}
    assert zero == {f"model.layers.{layer}.{part}.Wo.weight" for layer in (4, 5) for part in ("attn", "mlp")}
    assert {row.name for row in rows if row.how == "zero (silent)"} == zero
    assert "zero (silent)" in tiling_table(rows)


def test_noise_without_a_copy_is_refused():
    with pytest.raises(ModelError, match=r"init\.symmetry_noise_std=0\.1 has no effect: no head, neuron or feature"):
        grow(SMALL, replace(SMALL, num_layers=8), noise=SymmetryNoise(0.1, 5))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda w: w.pop("head.norm.weight"), r"it lacks head\.norm\.weight"),
        (lambda w: w.update(extra=torch.ones(1)), "does not know: extra"),
        (
            lambda w: w.update({"head.norm.weight": torch.ones(3)}),
            r"head\.norm\.weight is \(3,\), the config says \(16,\)",
        ),
        (lambda w: w["head.norm.weight"].fill_(float("nan")), r"head\.norm\.weight holds NaN"),
        (lambda w: w.update({DECODER: w[EMBEDDING] + 1}), r"decoder\.weight differs"),
    ],
)
def test_weights_that_do_not_fit_are_refused(damage, message):
    weights = draw_weights(SMALL, 0)
    check_state_dict(weights, SMALL, "it")
    damage(weights)
    with pytest.raises(ModelError, match=message):
        check_state_dict(weights, SMALL, "it")


def draw_sequences(generator, rows):
    """Sequences of a sharp first-order chain over 64 tokens; a good model gets far below ln(61) = 4.1 nats."""
    ids = torch.randint(3, 64, (rows, 33), generator=generator)
    for position in range(1, 33):
        step = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), rows, replacement=True, generator=generator)
        ids[:, position] = 3 + (ids[:, position - 1] * 7 + step * 13) % 61
    labels = ids.clone()
    labels[torch.rand(ids.shape, generator=generator) > 0.2] = -100
    return ids.masked_fill(labels != -100, 2), labels


def train_on_chain(network):
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 4e-3 * min(1.0, (step + 1) / 60, (400 - step) / 150)
        ids, labels = draw_sequences(generator, 32)
        optimizer.zero_grad()
        network(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize(("hidden", "heads"), [(48, 3), (80, 5), (96, 6)])
def test_trained_source_keeps_its_loss_when_widened(hidden, heads):
    torch.manual_seed(0)
    source_model = replace(SMALL, hidden_size=32, num_heads=2, intermediate_size=48)
    target_model = replace(SMALL, hidden_size=hidden, num_heads=heads, intermediate_size=hidden * 3 // 2)
    network, wider = build_network(source_model), build_network(target_model)
    ids, labels = draw_sequences(torch.Generator().manual_seed(11), 64)

    def loss_of(net):
        with torch.no_grad():
            return float(net.eval()(input_ids=ids, labels=labels).loss)

    train_on_chain(network)
    losses = {"source": loss_of(network), "random": loss_of(wider)}
    for scale in ("fan_in", "published"):
        tiled, _ = tile_state_dict(
            network.state_dict(), wider.state_dict(), plan_growth(source_model, target_model, scale)
        )
        fresh = build_network(target_model)
        fresh.load_state_dict(tiled)
        losses[scale] = loss_of(fresh)
    print(losses)
    assert losses["source"] < losses["random"] - 1.0, "the source has learned nothing, the test would show nothing"
    assert abs(losses["fan_in"] - losses["source"]) < 0.05
    assert losses["published"] > losses["source"] + 0.2
