"""The README of an imported folder: where the weights came from, and what was checked."""

import torch

import padless
from padless.export.importer import LoadedSource
from padless.export.source import ResolvedSource
from padless.model.tensor_shapes import tensor_shapes


def render_import_card(name: str, resolved: ResolvedSource, loaded: LoadedSource, max_position_tokens: int) -> str:
    """Return the README.md of an imported folder."""
    model = loaded.model_config
    parameters = sum(torch.Size(shape).numel() for shape in tensor_shapes(model).values())
    base = f"base_model: {resolved.hub.repo}\n" if resolved.hub is not None else ""
    tokens = "unknown" if loaded.tokens_seen is None else f"{loaded.tokens_seen:_}"
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
{base}tags:
- modernbert
- masked-lm
---

# {name}

Imported by padless {padless.__version__} from `{resolved.origin}`.

- {parameters:_} parameters: {model.num_layers} layers x {model.hidden_size}, {model.num_heads} heads, GeGLU
  {model.intermediate_size}, vocabulary {model.vocab_size}, segments of up to {max_position_tokens} tokens
- RoPE theta {loaded.rope.global_theta:g} (global layers) / {loaded.rope.local_theta:g} (local layers)
- tokens it was trained on, as the source says: {tokens}

The weights are the source's, value for value, in fp32. What it was trained on, how good it is and its licence are the
source's to say.
"""
