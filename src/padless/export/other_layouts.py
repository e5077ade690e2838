"""What kind of model tensors belong to that are not ours, told from their names."""

import re
from collections.abc import Collection

# The first that fits any name decides, so what is most telling comes first.
_TELLING = (
    (r"\.Wqkvff\.", "attention and MLP are computed in parallel (parallel_prenorm)"),
    (r"\.attention\.self\.|(^|\.)encoder\.layer\.\d", "these are weights of a plain BERT"),
    (r"(^|\.)lm_head\.|\.self_attn\.|\.[qkv]_proj\.|\.c_attn\.", "these are weights of a decoder"),
    (r"(^|\.)position_embeddings\.", "its positions are learned"),
    (r"^(classifier|score|qa_outputs)\.", "it has a head for another task"),
    (r"norm\.bias$", "its norms have biases (norm_bias)"),
    (r"\.(Wqkv|Wi|Wo|dense)\.bias$", "its linear layers have biases"),
    (r"\.layers\.0\.attn_norm\.", "it has a norm before the first attention (skip_first_prenorm: false)"),
    (r"^(embeddings|layers|final_norm)\.", "it is an encoder saved without its prediction head"),
)
_HEAD = ("head.dense.weight", "head.norm.weight")


def name_layout(names: Collection[str]) -> str:
    """Return in words what is different about a model with these tensors, empty where that cannot be told.

    Args:
        names: all of its tensors, by Hugging Face's names where it has them.
    """
    for pattern, words in _TELLING:
        if any(re.search(pattern, name) for name in names):
            return words
    return "" if any(name in names for name in _HEAD) else "it has no prediction head"
