"""The implementations that the benches compare, each with the same documents, masks, shape and precision.

Their names are in :mod:`padless.bench.shapes`. Ours is on packed batches with the project's optimizer; the peers are
transformers' ModernBertForMaskedLM on padded batches, with SDPA attention and torch's fused AdamW.
A step is what a trainer does: gradients to None, forward, backward, norm of all gradients, optimizer step.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from padless.bench.batches import PaddedBatch, packed_batch, padded_batch
from padless.bench.lengths import CLS, MASK, PAD, SEP, Workload
from padless.bench.shapes import OPTIMIZER, PADLESS, PEAK_LR, ROPE, SPARSE, WEIGHT_DECAY
from padless.config.schema import ModelConfig
from padless.model.init import initialise
from padless.model.masked_lm import MaskedLM
from padless.optim.build import build_optimizer


def autocast(precision: str) -> contextlib.AbstractContextManager[object]:
    """Return the context that forward passes run in on the CPU; fp32 needs none."""
    return torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def build_padless(model: ModelConfig, backend: str, is_compiled: bool) -> MaskedLM:
    """Return our model with random weights."""
    masked_lm = MaskedLM(model, ROPE, backend)
    initialise(masked_lm, 0)
    if is_compiled:
        _compile_layers(masked_lm.model.layers)
    return masked_lm


def build_transformers(model: ModelConfig, name: str, is_compiled: bool, max_tokens: int) -> nn.Module:
    """Return transformers' model of the same shape with random weights; ``name`` is ``sparse`` or ``dense``."""
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        max_position_embeddings=max_tokens,
        norm_eps=model.norm_eps,
        global_attn_every_n_layers=model.global_every_layers,
        local_attention=model.local_window_tokens,
        global_rope_theta=ROPE.global_theta,
        local_rope_theta=ROPE.local_theta,
        pad_token_id=PAD,
        cls_token_id=CLS,
        bos_token_id=CLS,
        sep_token_id=SEP,
        eos_token_id=SEP,
        mask_token_id=MASK,
        embedding_dropout=model.embedding_dropout,
        attention_dropout=model.attention_out_dropout,
        mlp_dropout=model.mlp_dropout,
        sparse_prediction=name == SPARSE,
        reference_compile=False,
        attn_implementation="sdpa",
    )
    peer = ModernBertForMaskedLM(config)
    if is_compiled:
        _compile_layers(peer.model.layers)
    return peer


def _compile_layers(layers: Any) -> None:  # a ModuleList, which pyright sees as a Tensor or Module
    for layer in layers:
        layer.compile(dynamic=True)


def our_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that the trainer builds."""
    return build_optimizer(model, OPTIMIZER, PEAK_LR, WEIGHT_DECAY, False)


def their_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Return torch's fused AdamW."""
    betas = OPTIMIZER.beta1, OPTIMIZER.beta2
    return torch.optim.AdamW(
        model.parameters(), lr=PEAK_LR, betas=betas, eps=OPTIMIZER.eps, weight_decay=WEIGHT_DECAY, fused=True
    )


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One of the sides.

    Args:
        model: its module.
        batch: returns what batch ``number`` of the workload is computed from.
        losses: yields a loss to call backward on, part by part, means over the batch's masked tokens together.
        hidden: computes the encoder's states of all tokens of a batch.
    """

    model: nn.Module
    batch: Callable[[int], Any]
    losses: Callable[[Any], Any]
    hidden: Callable[[Any], Any]


def implementation(
    name: str, model: ModelConfig, workload: Workload, precision: str, backend: str, is_compiled: bool, tokens: int
) -> Implementation:
    """Return ``padless``, ``sparse`` or ``dense`` over a workload."""
    if name == PADLESS:
        return _padless(model, workload, precision, backend, is_compiled, tokens)
    return _transformers(name, model, workload, precision, is_compiled)


def _padless(
    model: ModelConfig, workload: Workload, precision: str, backend: str, is_compiled: bool, tokens: int
) -> Implementation:
    masked_lm = build_padless(model, backend, is_compiled)

    def losses(batch: Any) -> Any:
        with autocast(precision):
            loss = masked_lm(batch)
        yield loss

    def hidden(batch: Any) -> Tensor:
        with autocast(precision):
            return masked_lm.encode(batch)

    return Implementation(masked_lm, lambda number: packed_batch(workload, number, tokens), losses, hidden)


def _transformers(
    name: str, model: ModelConfig, workload: Workload, precision: str, is_compiled: bool
) -> Implementation:
    peer: Any = build_transformers(model, name, is_compiled, workload.max_seq_len)

    def batch(number: int) -> tuple[list[PaddedBatch], int]:
        parts = workload.padded[number]
        return [padded_batch(workload, part) for part in parts], sum(map(workload.masked, parts))

    def losses(parts_and_masked: Any) -> Any:
        parts, num_masked = parts_and_masked
        for part in parts:
            with autocast(precision):
                loss = peer(
                    input_ids=part.input_ids_BL,
                    attention_mask=part.attention_mask_BL,
                    labels=part.labels_BL,
                    num_items_in_batch=num_masked,
                ).loss
            yield loss

    def hidden(parts_and_masked: Any) -> None:
        for part in parts_and_masked[0]:
            with autocast(precision):
                peer.model(input_ids=part.input_ids_BL, attention_mask=part.attention_mask_BL)

    return Implementation(peer, batch, losses, hidden)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, losses: Any) -> tuple[float, float]:
    """Do one step and return its loss (nats) and the norm of its gradients."""
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for loss in losses:
        loss.backward()
        total += float(loss.detach())
        del loss
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    optimizer.step()
    return total, norm
