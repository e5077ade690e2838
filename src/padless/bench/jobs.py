"""What a worker (:mod:`padless.bench.worker`) can be told to do, batch by batch.

Each job imports what it runs and no more, so that a process has resident what its implementation needs.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from padless.bench.lengths import CASES, draw_workload
from padless.bench.machine import matmul_ceiling_gflops
from padless.bench.shapes import PADLESS, shape_of

if TYPE_CHECKING:
    from padless.bench.peers import Implementation

Work = Callable[[], dict[str, float]]


def _implementation(
    who: str,
    case: str,
    shape: str,
    batches: int,
    seed: int,
    tokens: int,
    rows: int,
    precision: str,
    backend: str,
    is_compiled: bool,
) -> "Implementation":
    from padless.bench.peers import implementation

    model = shape_of(shape)
    workload = draw_workload(CASES[case], batches, tokens, model.vocab_size, seed, rows=rows)
    return implementation(who, model, workload, precision, backend, is_compiled, tokens)


def step_job(who: str, **setting: Any) -> Callable[[int], Work]:
    """Full train steps."""
    from padless.bench.peers import our_optimizer, their_optimizer, train_step

    side = _implementation(who, **setting)
    optimizer = our_optimizer(side.model) if who == PADLESS else their_optimizer(side.model)
    side.model.train()

    def prepare(number: int) -> Work:
        batch = side.batch(number)

        def work() -> dict[str, float]:
            loss, norm = train_step(side.model, optimizer, side.losses(batch))
            return {"loss": loss, "gradient_norm": norm}

        return work

    return prepare


def encode_job(who: str, **setting: Any) -> Callable[[int], Work]:
    """The encoder's hidden states, without gradients."""
    side = _implementation(who, **setting)
    side.model.eval()

    def prepare(number: int) -> Work:
        batch = side.batch(number)

        def work() -> dict[str, float]:
            with torch.inference_mode():
                side.hidden(batch)
            return {}

        return work

    return prepare


def attention_job(
    who: str, places: list[dict[str, Any]], heads: int, width: int, precision: str
) -> Callable[[int], Work]:
    """Attention alone, forward and backward, at one of ``places``: segment lengths and window."""
    from padless.bench.kernels import attention_of

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32

    def prepare(number: int) -> Work:
        lengths, window_tokens = tuple(places[number]["lengths"]), places[number]["window_tokens"]
        generator = torch.Generator().manual_seed(number)
        qkv_T3NH = torch.randn(sum(lengths), 3, heads, width, generator=generator).to(dtype)
        run = attention_of(who, qkv_T3NH, lengths, window_tokens)

        def work() -> dict[str, float]:
            run()
            return {}

        return work

    return prepare


def ceiling_job(precision: str) -> Callable[[int], Work]:
    """The core's own best rate on matrix products."""
    dtype_name = "bfloat16" if precision == "bf16" else "float32"
    return lambda _: lambda: {"gflops": matmul_ceiling_gflops(dtype_name, 3)}


JOBS: dict[str, Callable[..., Callable[[int], Work]]] = {
    "step": step_job,
    "encode": encode_job,
    "attention": attention_job,
    "ceiling": ceiling_job,
}
