"""What the encoder promises to everyone above it: packing does not matter, empty microbatches are ordinary."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from padless.config.schema import ModelConfig, RopeConfig
from padless.data.batch import PackedBatch
from padless.errors import ConfigError
from padless.model.count import count_parameters
from padless.model.init import initialise
from padless.model.masked_lm import MaskedLM
from small_shape import small_shape

SMALL = small_shape(init_std=0.2)  # large, so that layers matter to the output
ROPE = RopeConfig(global_theta=160_000.0, local_theta=10_000.0)


def model(config: ModelConfig = SMALL, rope: RopeConfig = ROPE, seed: int = 0) -> MaskedLM:
    masked_lm = MaskedLM(config, rope)
    initialise(masked_lm, seed)
    return masked_lm


def pack(segments: list[Tensor], masked: list[list[int]] | None = None) -> PackedBatch:
    lengths = tuple(len(segment) for segment in segments)
    borders = torch.tensor([0, *lengths]).cumsum(0)
    places = [positions or [] for positions in masked or [[] for _ in lengths]]
    positions_M = torch.tensor(
        [int(start) + place for start, own in zip(borders[:-1], places, strict=True) for place in own],
        dtype=torch.int64,
    )
    ids_T = torch.cat(segments)
    labels_M = (ids_T[positions_M] + 1) % 128
    return PackedBatch(
        ids_T, borders.int(), positions_M, labels_M, lengths, max(lengths), sum(lengths), len(positions_M)
    )


def segments() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, 128, (length,), generator=generator) for length in (30, 1, 90, 17)]


def test_a_segments_states_do_not_depend_on_its_pack() -> None:
    masked_lm, pieces = model().eval(), segments()
    alone = [masked_lm.encode(pack([piece])) for piece in pieces]
    for order in ([0, 1, 2, 3], [2, 0, 3, 1], [3, 2, 1, 0], [2, 2, 1]):
        lengths = [len(pieces[number]) for number in order]
        together = masked_lm.encode(pack([pieces[number] for number in order])).split(lengths)
        for number, hidden_LD in zip(order, together, strict=True):
            torch.testing.assert_close(hidden_LD, alone[number], atol=2e-5, rtol=0)


def test_gradients_do_not_cross_documents() -> None:
    masked_lm, pieces = model(), segments()
    batch = pack(pieces, [[], [], [4, 50], []])
    leaf_TD = masked_lm.model.embeddings.tok_embeddings(batch.input_ids_T).detach().requires_grad_()
    masked_lm.model.embeddings.norm.register_forward_pre_hook(lambda *_: (leaf_TD,))
    masked_lm.loss(batch).backward()
    assert leaf_TD.grad is not None
    assert leaf_TD.grad.abs().sum(1).nonzero()[:, 0].tolist() == list(range(31, 121))


def test_loss_is_the_mean_over_masked_positions() -> None:
    masked_lm = model()
    batch = pack(segments(), [[0, 3], [0], [10, 11, 80], []])
    logits_TV = masked_lm.logits(batch)
    logits_MV = masked_lm.logits_at(batch)
    torch.testing.assert_close(logits_MV, logits_TV[batch.masked_positions_M], atol=1e-6, rtol=0)
    right = torch.nn.functional.cross_entropy(logits_MV, batch.labels_M)
    torch.testing.assert_close(masked_lm.loss(batch), right)
    torch.testing.assert_close(masked_lm.loss_sum(batch), right * batch.num_masked)
    grads = torch.autograd.grad(masked_lm.loss(batch), list(masked_lm.parameters()))
    for grad, right_grad in zip(grads, torch.autograd.grad(right, list(masked_lm.parameters())), strict=True):
        torch.testing.assert_close(grad, right_grad, atol=1e-6, rtol=1e-4)


def test_z_loss_is_trained_on_but_neither_validated_nor_logged() -> None:
    plain = model()
    with_z = MaskedLM(SMALL, ROPE, z_loss=0.1)
    with_z.load_state_dict(plain.state_dict())
    batch = pack(segments(), [[0, 3], [0], [10, 11, 80], []])
    loss, right = plain.loss(batch), plain.logits_at(batch).logsumexp(1).square().mean() * 0.1
    torch.testing.assert_close(with_z.loss(batch), loss + right)
    assert with_z.last_cross_entropy is not None
    assert torch.equal(with_z.last_cross_entropy, loss.detach())
    assert torch.equal(with_z.loss_sum(batch), plain.loss_sum(batch))
    grads = torch.autograd.grad(with_z.loss(batch), list(with_z.parameters()))
    for grad, right_grad in zip(grads, torch.autograd.grad(loss + right, list(plain.parameters())), strict=True):
        torch.testing.assert_close(grad, right_grad, atol=2e-6, rtol=1e-4)


def test_a_microbatch_without_masks_gives_every_parameter_a_zero_gradient() -> None:
    masked_lm = model()
    loss = masked_lm.loss(pack(segments()))
    loss.backward()
    assert loss.item() == 0.0
    for name, parameter in masked_lm.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


def test_every_parameter_gets_a_gradient_from_masks() -> None:
    masked_lm = model()
    masked_lm.loss(pack(segments(), [[0, 3], [0], [10, 80], [1]])).backward()
    for name, parameter in masked_lm.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_bf16_autocast_is_near_fp32() -> None:
    masked_lm, batch = model(), pack(segments(), [[0, 3], [0], [10, 80], [1]])
    right = masked_lm.loss(batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss = masked_lm.loss(batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(
        parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in masked_lm.parameters()
    )
    # 8 bits of mantissa through four layers; the loss is near 12 nats with these large weights.
    assert abs(loss.item() - right.item()) < 0.02 * right.item()


def test_training_is_deterministic_given_the_seed() -> None:
    config = replace(SMALL, attention_out_dropout=0.1, mlp_dropout=0.1, embedding_dropout=0.1)
    batch = pack(segments(), [[0, 3], [0], [10, 80], [1]])
    results = []
    for seed in (5, 5, 6):
        masked_lm = model(config)
        torch.manual_seed(seed)
        loss = masked_lm.loss(batch)
        loss.backward()
        results.append([loss.detach(), *(parameter.grad for parameter in masked_lm.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not torch.equal(results[0][0], results[2][0])


@pytest.mark.parametrize("dropout", ["attention_out_dropout", "mlp_dropout", "embedding_dropout"])
def test_each_dropout_acts_in_training_and_not_in_evaluation(dropout: str) -> None:
    masked_lm, batch = model(replace(SMALL, **{dropout: 0.5})), pack(segments())
    torch.manual_seed(0)
    assert not torch.equal(masked_lm.encode(batch), masked_lm.encode(batch))
    masked_lm.eval()
    assert torch.equal(masked_lm.encode(batch), masked_lm.encode(batch))


def test_thetas_are_readable_and_matter() -> None:
    batch = pack(segments())
    other = RopeConfig(global_theta=10_000.0, local_theta=10_000.0)
    first, second = model().eval(), model(rope=other).eval()
    assert (first.rope, second.rope) == (ROPE, other)
    assert not torch.allclose(first.encode(batch), second.encode(batch), atol=1e-4)
    assert not list(first.buffers())


@pytest.mark.parametrize(
    "config", [SMALL, replace(SMALL, num_layers=1), replace(SMALL, hidden_size=64, intermediate_size=40)]
)
def test_counted_parameters_are_those_of_the_modules(config: ModelConfig) -> None:
    masked_lm, count = MaskedLM(config, ROPE), count_parameters(config)
    size = {name: sum(p.numel() for p in part.parameters()) for name, part in masked_lm.model.named_children()}
    assert (count.embeddings, count.layers, count.final_norm) == tuple(size.values())
    assert count.total == sum(parameter.numel() for parameter in masked_lm.parameters())


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ConfigError, match="attention backend 'fast' does not exist"):
        MaskedLM(SMALL, ROPE, "fast")
