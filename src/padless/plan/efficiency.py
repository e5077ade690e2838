"""How long a token takes on a GPU: arithmetic, attention and memory traffic, one after the other.

    seconds a token = matrix FLOPs    / (peak      x MATRIX)       a ceiling that others measured
                    + attention FLOPs / (peak      x ATTENTION)    fitted
                    + bytes           / (bandwidth x MEMORY)       fitted

Nothing overlaps in this model. Width enters by the traffic: a narrow model moves more bytes for each operation (the
products of ModernBERT-base's width have fewer operations a byte than an H100 could do in the time of reading it), so
no fraction depends on the shape. The two fitted fractions are calibrated on published hours
(:mod:`padless.plan.calibration`) of runs on H100; that they hold for another GPU's peak and bandwidth is an
extrapolation. What is not in it: the time to launch kernels and to feed data, which small models are bound by.
"""

from dataclasses import dataclass

from padless.config.schema import ModelConfig
from padless.plan.devices import Gpu
from padless.plan.lengths import Segments

MATRIX_SHARE = 0.803
"""Of the peak, the best that matrix products in bf16 were measured at on an H100 SXM: 794.5 of 989 TFLOP/s
(stas00/ml-engineering, compute/accelerator, maximum achievable matmul FLOPS; an A100 reached 86.9 %)."""

_FORWARD_AND_BACKWARD = 3
_LOW_BYTES, _FULL_BYTES = 2, 4
_LOGIT_ACCESSES = 6  # written, read twice and overwritten by the loss, read by two products


@dataclass(frozen=True)
class Traffic:
    """Elements that a layer reads or writes a token, forward and backward: in multiples of the model's widths.

    Counted operation by operation on the compiled halves of a layer (:mod:`padless.model.compiled`), each reading its
    inputs and writing its output once. Forward: norm 1, Wqkv 1+3, rotation 4, attention 3+1, Wo 1+1, sum and norm 1+1,
    Wi 1, Wo 1, sum 1 times D and 2 + 2+1 + 1 times I. Backward: two products for each of the four matrices, GeGLU,
    attention 5+3, rotation 4, norms and casts.
    """

    low_widths: int = 52  # in the compute precision, times D
    low_inners: int = 17  # in the compute precision, times I
    full_widths: int = 15  # of the residual stream and attention's sums, in fp32, times D

    def bytes_a_token(self, model: ModelConfig, low_bytes: int) -> float:
        """Return the bytes of all layers a token."""
        low = self.low_widths * model.hidden_size + self.low_inners * model.intermediate_size
        return model.num_layers * (low_bytes * low + _FULL_BYTES * self.full_widths * model.hidden_size)


LAYER_TRAFFIC = Traffic()


@dataclass(frozen=True)
class Work:
    """What a token costs in forward and backward pass together."""

    matrix_flops: float
    attention_flops: float
    traffic_bytes: float

    @property
    def flops(self) -> float:
        """Necessary operations, as :func:`padless.plan.flops.step_flops` counts them."""
        return self.matrix_flops + self.attention_flops


@dataclass(frozen=True)
class Shares:
    """Of a device's best, what is reached."""

    matrix: float
    attention: float
    memory: float


FITTED = Shares(MATRIX_SHARE, attention=0.2147, memory=0.5841)
"""What :func:`padless.plan.calibration.fit_shares` gives; a test holds the two together."""

LARGEST_ERROR = 0.02
"""Of the six figures of the fit; a test holds it."""

FREE_CONSTANTS = 2


def work_a_token(model: ModelConfig, segments: Segments, mask_rate: float, is_fp32: bool = False) -> Work:
    """Return the work of a token of a phase.

    Args:
        model: shape.
        segments: how long the segments are.
        mask_rate: share of tokens that loss falls on.
        is_fp32: computed in fp32 throughout, as on most CPUs.
    """
    width, inner = model.hidden_size, model.intermediate_size
    layers = model.num_layers * (4 * width * width + 3 * inner * width)
    head = mask_rate * width * (width + model.vocab_size)
    low_bytes = _FULL_BYTES if is_fp32 else _LOW_BYTES
    logits = _LOGIT_ACCESSES * low_bytes * mask_rate * model.vocab_size
    return Work(
        _FORWARD_AND_BACKWARD * 2 * (layers + head),
        _FORWARD_AND_BACKWARD * segments.attention_flops_a_token(model),
        LAYER_TRAFFIC.bytes_a_token(model, low_bytes) + logits,
    )


def terms_s(work: Work, device: Gpu) -> tuple[float, float, float]:
    """Return the seconds of matrices, attention and traffic a token at the device's very best."""
    peak, bandwidth = device.peak_tflops * 1e12, device.bandwidth_gb_s * 1e9
    return work.matrix_flops / peak, work.attention_flops / peak, work.traffic_bytes / bandwidth


def seconds_a_token(work: Work, device: Gpu, shares: Shares = FITTED) -> float:
    """Return how long one device takes for a token."""
    matrix_s, attention_s, traffic_s = terms_s(work, device)
    return matrix_s / shares.matrix + attention_s / shares.attention + traffic_s / shares.memory
