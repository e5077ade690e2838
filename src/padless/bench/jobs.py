"""What a worker (:mod:`padless.bench.worker`) can be told to do, batch by batch."""

from collections.abc import Callable

import torch

from padless.bench.lengths import CASES, Workload, draw_workload
from padless.bench.machine import matmul_ceiling_gflops
from padless.bench.peers import PADLESS, Implementation, implementation, our_optimizer, their_optimizer, train_step
from padless.bench.shapes import shape_of

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
) -> tuple[Implementation, Workload]:
    model = shape_of(shape)
    workload = draw_workload(CASES[case], batches, tokens, model.vocab_size, seed, rows=rows)
    return implementation(who, model, workload, precision, backend, is_compiled, tokens), workload


def step_job(who: str, **setting: object) -> Callable[[int], Work]:
    """Full train steps."""
    side, _ = _implementation(who, **setting)  # pyright: ignore[reportArgumentType]  # as the parent writes them
    optimizer = our_optimizer(side.model) if who == PADLESS else their_optimizer(side.model)
    side.model.train()

    def prepare(number: int) -> Work:
        batch = side.batch(number)

        def work() -> dict[str, float]:
            loss, norm = train_step(side.model, optimizer, side.losses(batch))
            return {"loss": loss, "gradient_norm": norm}

        return work

    return prepare


def encode_job(who: str, **setting: object) -> Callable[[int], Work]:
    """The encoder's hidden states, without gradients."""
    side, _ = _implementation(who, **setting)  # pyright: ignore[reportArgumentType]  # as the parent writes them
    side.model.eval()

    def prepare(number: int) -> Work:
        batch = side.batch(number)

        def work() -> dict[str, float]:
            with torch.inference_mode():
                side.hidden(batch)
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
    "ceiling": ceiling_job,
}
