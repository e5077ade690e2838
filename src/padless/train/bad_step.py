"""What is known about a bad step, for people: ``reports/step-<n>.json`` in the run's folder and a few printed lines.

Step, clock, rates, blocks, the decoded start of the first documents, and per layer the largest weight, gradient and
activation. Activations are measured by computing the step's forward pass once more; on a step that is about to be
thrown away that costs nothing that matters.
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from composer.core import State
from tokenizers import Tokenizer
from torch import Tensor, nn

from padless.data.durable import write_durably
from padless.data.loader import StepLoader
from padless.model.masked_lm import MaskedLM
from padless.run_files import TOKENIZER
from padless.train.callbacks.record import StepRecord, clock_tokens, step_number
from padless.train.hardware import Compute
from padless.train.world import World

_DOCUMENTS_A_RANK = 4
_DECODED_TOKENS = 48
_PRINTED_CHARACTERS = 100


class Rewind(Exception):
    """The guard asks for the last good checkpoint, and to go on without the blocks of the bad step.

    Args:
        problem: what was wrong with the step.
        clock_tokens: the clock at which it began.
        step: its number.
        report: file with what is known about it.
    """

    def __init__(self, problem: str, clock_tokens: int, step: int, report: str) -> None:
        super().__init__(problem, clock_tokens, step, report)
        self.problem, self.clock_tokens, self.step, self.report = problem, clock_tokens, step, report


class BadStepReporter:
    """Collects from all ranks, writes on the first.

    Args:
        model: the encoder with its head, unwrapped.
        loader: has the step's blocks and batches.
        compute: device and precision.
        world: the ranks.
        run_folder: folder of the run, with its tokenizer.
        say: prints one line.
    """

    def __init__(
        self,
        model: MaskedLM,
        loader: StepLoader,
        compute: Compute,
        world: World,
        run_folder: Path,
        say: Callable[[str], None],
    ) -> None:
        self._model, self._loader, self._compute, self._world = model, loader, compute, world
        self._run_folder, self.say = run_folder, say

    def name_blocks(self, at_most: int) -> str:
        """Return the step's blocks as ``stream:index``, the first ``at_most`` by name."""
        ids = sorted(self._loader.last_step.block_ids)
        named = ", ".join(f"{stream}:{index}" for stream, index in ids[:at_most])
        return named if len(ids) <= at_most else f"{named} and {len(ids) - at_most} more"

    def write(self, problem: str, policy: str, state: State, record: StepRecord) -> str:
        """Write the report of the step under way, print its gist, and return its name in the run's folder."""
        step, settings = step_number(state), record.settings
        own = {"documents": self._documents(), "activations": self._activation_maxima(), "name": self._free_name(step)}
        ranks: list[dict[str, Any]] = self._world.gather(own)
        name: str = ranks[0]["name"]
        activations: dict[str, float] = {}
        for each in ranks:
            for layer, value in each["activations"].items():
                activations[layer] = _larger(activations.get(layer, 0.0), value)
        first_bad = next((layer for layer, value in activations.items() if not math.isfinite(value)), None)
        report = {
            "problem": problem,
            "policy": policy,
            "step": step,
            "phase": record.plan.name,
            "clock_tokens": clock_tokens(state),
            "lr": settings.lr if settings else None,
            "mask_rate": settings.mask_rate if settings else None,
            "batch_blocks": settings.batch_blocks if settings else None,
            "grad_norm": record.grad_norm,
            "recent_losses": record.recent_losses,
            "first_layer_not_finite": first_bad,
            "layers": self._layers(activations),
            "blocks": sorted(self._loader.last_step.block_ids),
            "documents": [document for each in ranks for document in each["documents"]],
        }
        if self._world.is_leader:
            write_durably(self._run_folder / name, (json.dumps(_finite(report), indent=1) + "\n").encode())
            self._print(report, name, policy)
        return name

    def _free_name(self, step: int) -> str:
        """Return a name that no report of an earlier try of this step has."""
        taken = sum(1 for _ in (self._run_folder / "reports").glob(f"step-{step}[.-]*"))
        return f"reports/step-{step}-{taken + 1}.json" if taken else f"reports/step-{step}.json"

    def _print(self, report: dict[str, Any], name: str, policy: str) -> None:
        self.say(f"bad step {report['step']} of phase {report['phase']!r}: {report['problem']}; guard: {policy}")
        if report["first_layer_not_finite"]:
            self.say(f"  first layer whose output is not finite: {report['first_layer_not_finite']}")
        for document in report["documents"][:2]:
            text = " ".join(document["text"].split())[:_PRINTED_CHARACTERS]
            self.say(f"  {document['stream']}:{document['block']} begins: {text}")
        self.say(f"  report: {self._run_folder / name}")

    def _documents(self) -> list[dict[str, Any]]:
        path = self._run_folder / TOKENIZER / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else None
        documents = []
        blocks = [block for microbatch in self._loader.last_step.own_blocks for block in microbatch]
        for block in blocks[:_DOCUMENTS_A_RANK]:
            ids = block.tokens_T[: min(int(block.lengths_S[0]), _DECODED_TOKENS)].tolist()
            text = tokenizer.decode(ids) if tokenizer else " ".join(map(str, ids))
            documents.append({"stream": block.stream, "block": block.index, "text": text})
        return documents

    def _activation_maxima(self) -> dict[str, float]:
        maxima: dict[str, float] = {}
        with _recorded(self._model, maxima), torch.no_grad(), self._compute.autocast():
            for batch in self._loader.last_step.own_batches:
                self._model.loss_sum(batch.to(self._compute.device))
        return maxima

    def _layers(self, activations: dict[str, float]) -> dict[str, dict[str, float]]:
        layers = {}
        for layer, module in _parts(self._model):
            weights = list(module.parameters())
            gradients = [parameter.grad for parameter in weights if parameter.grad is not None]
            layers[layer] = {
                "activation_max": activations.get(layer, math.nan),
                "weight_max": _max_abs(weights),
                "gradient_max": _max_abs(gradients),
            }
        return layers


def _parts(model: MaskedLM) -> Iterator[tuple[str, nn.Module]]:
    yield "embeddings", model.model.embeddings
    for number, layer in enumerate(model.model.layers):
        yield f"layers.{number}", layer
    yield "final_norm", model.model.final_norm
    yield "head", model.head


@contextmanager
def _recorded(model: MaskedLM, maxima: dict[str, float]) -> Iterator[None]:
    """Note the largest absolute output of each part of the model while the context lasts."""

    def hook_of(name: str) -> Callable[..., None]:
        def note(module: nn.Module, arguments: object, output: Tensor) -> None:  # noqa: ARG001  (torch's signature)
            maxima[name] = _larger(maxima.get(name, 0.0), _max_abs([output]))

        return note

    handles = [module.register_forward_hook(hook_of(name)) for name, module in _parts(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _max_abs(tensors: list[Any]) -> float:
    return float(torch.stack([tensor.detach().float().abs().max() for tensor in tensors]).max()) if tensors else 0.0


def _larger(one: float, other: float) -> float:
    """Return the larger value; NaN wins, since it is what is looked for."""
    return math.nan if math.isnan(one) or math.isnan(other) else max(one, other)


def _finite(value: Any) -> Any:
    """Return a tree in which values that JSON does not know are words."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
