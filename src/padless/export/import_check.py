"""Do imported weights compute what transformers computes with them?

A Hugging Face folder is its own reference (where its weights are a pickle: its config, with the weights as they were
read, so that nothing unpickles them). For any other source a folder is written from the weights as they were read,
loaded by transformers, and deleted; where the source's thetas or window were misread, only its own trainer could tell.
"""

import json
import tempfile
from pathlib import Path

from padless.errors import ModelError
from padless.export.importer import LoadedSource, is_pickled
from padless.export.parity import ParityResult, compare_with_transformers
from padless.export.writer import write_json, write_weights

_LONGEST_TOKENS = 512  # of what is compared
_SPECIALS = ("cls", "sep", "pad", "mask")


def check_import(
    source: Path, loaded: LoadedSource, max_logit_difference: float, within: Path | None = None
) -> ParityResult:
    """Return how far our logits with ``loaded`` are from transformers', fp32 on a CPU.

    Args:
        source: where it was loaded from.
        loaded: the weights.
        max_logit_difference: largest difference of any logit that is still the same model.
        within: where the folder to compare with is written if one is needed; left out, where temporary files are.

    Raises:
        ModelError: the logits differ, or transformers cannot load the reference.
    """
    with tempfile.TemporaryDirectory(dir=within) as scratch:
        folder = source if _is_safe(source) else _write_reference(Path(scratch), loaded, source)
        parity = compare_with_transformers(
            folder, loaded.state_dict, loaded.model_config, loaded.rope, _ids(loaded), _LONGEST_TOKENS
        )
    if not parity.max_abs_difference <= max_logit_difference:  # also refuses NaN
        raise ModelError(
            f"{source}: our logits differ from transformers' by {parity.max_abs_difference:g} (limit "
            f"{max_logit_difference:g}; same best token at {parity.top1_agreement:.1%})",
            "check the thetas and the window in its config; report it if they are right",
        )
    return parity


def _ids(loaded: LoadedSource) -> dict[str, int]:
    """Return ids for what is compared: any will do, as long as padding is masked."""
    return {name: number % loaded.model_config.vocab_size for number, name in enumerate(_SPECIALS)}


def _is_safe(source: Path) -> bool:
    return source.is_dir() and not is_pickled(source)


def _write_reference(folder: Path, loaded: LoadedSource, source: Path) -> Path:
    write_weights(folder, loaded.state_dict, loaded.model_config, loaded.rope, _LONGEST_TOKENS, _ids(loaded))
    if source.is_dir():
        written, own = (json.loads((each / "config.json").read_text(encoding="utf-8")) for each in (folder, source))
        write_json(folder / "config.json", {**own, "decoder_bias": written["decoder_bias"]})
    return folder
