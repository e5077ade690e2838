"""Random-weight models of transformers as folders, in any shape, and the same weights in FlexBert's names.

The layout of AnswerDotAI's and Ettin's Composer checkpoints, as their public sources give it (``src/bert_layers``:
embeddings, layers, attention, mlp, model; ``src/flex_bert.py``), is written out in ``flexbert_weights``: names left,
what they are in transformers right. Shapes are transformers' own.
"""

import datetime
import random
from collections import OrderedDict

import numpy as np
import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

IDS = {"cls": 1, "sep": 2, "pad": 3, "mask": 4}


def make_network(**shape):
    """Return a model whose logits are of order 1, so that a wrong theta or activation shows."""
    defaults = {
        "vocab_size": 320,
        "hidden_size": 128,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "global_rope_theta": 160_000.0,
        "local_rope_theta": 10_000.0,
        "max_position_embeddings": 4096,
        "reference_compile": False,
        "classifier_activation": "gelu",
        "pad_token_id": IDS["pad"],
        "mask_token_id": IDS["mask"],
        **dict.fromkeys(("bos_token_id", "cls_token_id"), IDS["cls"]),
        **dict.fromkeys(("eos_token_id", "sep_token_id"), IDS["sep"]),
    }
    network = ModernBertForMaskedLM(ModernBertConfig(**{**defaults, **shape}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            scale = 0.1 if parameter.ndim < 2 or "embeddings" in name else 1.5 / parameter.shape[1] ** 0.5
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
            if name.endswith("norm.weight"):
                parameter.add_(1.0)
    return network.eval()


def save_network(folder, **shape):
    network = make_network(**shape)
    network.save_pretrained(folder)
    return network


def flexbert_weights(network, prefix="model."):
    theirs = network.state_dict()
    config = network.config
    names = {
        "bert.embeddings.tok_embeddings.weight": "model.embeddings.tok_embeddings.weight",
        "bert.embeddings.norm.weight": "model.embeddings.norm.weight",
        "bert.final_norm.weight": "model.final_norm.weight",
        "head.dense.weight": "head.dense.weight",
        "head.norm.weight": "head.norm.weight",
        "decoder.weight": "decoder.weight",
        "decoder.bias": "decoder.bias",
    }
    for layer in range(config.num_hidden_layers):
        parts = ["attn.Wqkv", "attn.Wo", "mlp_norm", "mlp.Wi", "mlp.Wo"]
        for part in parts if layer == 0 else ["attn_norm", *parts]:
            names[f"bert.encoder.layers.{layer}.{part}.weight"] = f"model.layers.{layer}.{part}.weight"
    return OrderedDict((prefix + name, theirs[hf].detach().clone()) for name, hf in names.items() if hf in theirs)


def flexbert_settings(network, **changes):
    """Return the trainer's ``model_config`` for this model, all that matters spelled out."""
    config = network.config
    return {
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "attention_layer": "rope",
        "attention_probs_dropout_prob": 0.0,
        "attn_out_bias": False,
        "attn_out_dropout_prob": 0.1,
        "attn_qkv_bias": False,
        "bert_layer": "prenorm",
        "decoder_bias": config.decoder_bias,
        "embed_norm": True,
        "final_norm": True,
        "skip_first_prenorm": True,
        "embedding_layer": "sans_pos",
        "mlp_layer": "glu",
        "normalization": "layernorm",
        "norm_kwargs": {"eps": 1e-5, "bias": False},
        "hidden_act": "gelu",
        "head_class_act": "silu",
        "head_pred_act": "gelu",
        "padding": "unpadded",
        "rotary_emb_dim": None,
        "rotary_emb_base": config.global_rope_theta,
        "local_attn_rotary_emb_base": config.local_rope_theta,
        "rotary_emb_scale_base": None,
        "rotary_emb_interleaved": False,
        "sliding_window": config.local_attention,
        "global_attn_every_n_layers": config.global_attn_every_n_layers,
        **changes,
    }


def moments_of(weights, step=1234):
    """Return an optimizer's part of the envelope, by name, as torch-optimi's StableAdamW has it: the step by group."""
    state = {
        name: {"exp_avg": weight * 0.5, "exp_avg_sq": weight.square(), "eps_sq": torch.tensor(1e-12)}
        for name, weight in weights.items()
        if isinstance(weight, torch.Tensor) and not name.endswith("decoder.weight")
    }
    return {"DecoupledStableAdamW": {"state": state, "param_groups": [{"lr": 8e-4, "step": torch.tensor(step)}]}}


def envelope(weights, settings=None, **changes):
    """Return what Composer's Trainer saves around a model, with a thing of every kind that is not a plain value."""
    took = datetime.timedelta(seconds=3)
    state = {
        "model": weights,
        "optimizers": moments_of(weights),
        "algorithms": [("GradientClipping", {"repr": "clip"})],
        "callbacks": {"SpeedMonitor": {"total_eval_wct": np.float64(1.5)}},
        "timestamp": {"Timestamp": {"batch": 1234, "token": 5_000_000, "total_wct": took, "batch_wct": took}},
        "rank_zero_seed": 17,
        "run_name": "phase-1",
        "integrations": {"huggingface": {"model": {"config": {"content": settings}}}} if settings else {},
        "metadata": {"torch_version": torch.__version__, "precision": "amp_bf16"},
        **changes,
    }
    numpy_state = np.random.get_state()  # noqa: NPY002  (what Composer saves)
    rng = {"python": random.getstate(), "numpy": numpy_state, "torch": torch.get_rng_state()}
    return {"state": state, "rng": [rng]}
