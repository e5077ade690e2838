"""How long a forward pass of the encoder takes on a device, and how much memory, from stated physics (a roofline).

    product [M, K] x [K, N]   max(waves of tiles x time of a tile, operands and result / bandwidth)
    attention                 max(waves of query blocks x time of a block, queries, keys, values, result / bandwidth)
    all else                  what is read and written / bandwidth: two norms, rotation, GeGLU, two additions
    a kernel                  its time + a gap; all together no less than their launches

A tile or block that is not full takes as long as a full one (tile quantisation), and a wave that does not fill the
multiprocessors as long as one that does (wave quantisation). A rate is a data sheet's: figures are lower bounds of
times, meant for comparing shapes. Caches are not counted. The MLM head is left out, as inference leaves it out.

Depth costs by kernels, by attention and by what is read and written beside products, all of which grow with layers x
width where parameters grow with layers x width^2; width costs nothing of the kind. Embeddings cost no time.
"""

from dataclasses import dataclass

from padless.config.schema import ModelConfig
from padless.design.device import Device
from padless.design.shapes import HEAD_WIDTH, weights_of
from padless.model.count import count_parameters

_KERNELS_PER_LAYER = 10  # four products, attention, two norms of which one adds, rotation, GeGLU, an addition
_WIDTHS_MOVED = 13  # times T x D read or written: norm 2, rotation of q and k 4, addition with norm 4, addition 3
_INNERS_MOVED = 3  # times T x I: GeGLU reads two and writes one
_ENDS_KERNELS = 3  # look-up, its norm, the last norm
_ENDS_WIDTHS_MOVED = 6


@dataclass(frozen=True)
class Prediction:
    """Seconds of one forward pass, by part."""

    products_s: float
    attention_s: float
    moving_s: float
    waiting_s: float  # gaps between kernels, and for the launching host

    @property
    def total_s(self) -> float:
        """All together."""
        return self.products_s + self.attention_s + self.moving_s + self.waiting_s


def predict(model: ModelConfig, device: Device, num_segments: int, segment_tokens: int) -> Prediction:
    """Return the time of one forward pass.

    Args:
        model: shape.
        device: what computes.
        num_segments: of the packed batch, all of one length.
        segment_tokens: their length.
    """
    tokens = num_segments * segment_tokens
    products_s = model.num_layers * sum(
        product_s(device, tokens, rows, columns) for rows, columns in weights_of(model).values()
    )
    global_layers = -(-model.num_layers // model.global_every_layers)
    attention_s = global_layers * _attention_s(model, device, num_segments, segment_tokens, None)
    attention_s += (model.num_layers - global_layers) * _attention_s(
        model, device, num_segments, segment_tokens, model.local_window_tokens
    )
    values = model.num_layers * (_WIDTHS_MOVED * model.hidden_size + _INNERS_MOVED * model.intermediate_size)
    values += _ENDS_WIDTHS_MOVED * model.hidden_size
    moving_s = tokens * values * device.element_bytes / device.bandwidth_bytes_per_s
    kernels = model.num_layers * _KERNELS_PER_LAYER + _ENDS_KERNELS
    busy_s = products_s + attention_s + moving_s
    waiting_s = max(kernels * device.kernel_gap_s, kernels * device.launch_s - busy_s)
    return Prediction(products_s, attention_s, moving_s, waiting_s)


def product_s(device: Device, tokens: int, outputs: int, inputs: int) -> float:
    """Return the time of ``[tokens, inputs] x [inputs, outputs]`` with the tile that is fastest."""
    rate = device.flops_per_s / device.num_units
    computing_s = min(
        _waves(-(-tokens // tile.rows) * -(-outputs // tile.columns), device)
        * (2 * tile.rows * tile.columns * inputs / (rate * tile.share))
        for tile in device.tiles
    )
    values = tokens * inputs + inputs * outputs + tokens * outputs
    return max(computing_s, values * device.element_bytes / device.bandwidth_bytes_per_s)


def _waves(tiles: int, device: Device) -> int:
    return -(-tiles // device.num_units)


def _attention_s(
    model: ModelConfig, device: Device, num_segments: int, segment_tokens: int, window_tokens: int | None
) -> float:
    block, rate = device.attention_block, device.attention_flops_per_s / device.num_units
    query_blocks = -(-segment_tokens // block)
    keys = query_blocks * block
    if window_tokens is not None:
        keys = min(keys, block + window_tokens)
    waves = _waves(num_segments * query_blocks * model.num_heads, device)
    computing_s = waves * 4 * block * keys * HEAD_WIDTH / rate  # scores and their sum of values
    values = num_segments * segment_tokens * 4 * model.hidden_size
    return max(computing_s, values * device.element_bytes / device.bandwidth_bytes_per_s)


def inference_bytes(model: ModelConfig, tokens: int, element_bytes: int) -> int:
    """Return the memory of a forward pass: the encoder's weights, the residual stream, a layer's widest moment.

    Args:
        model: shape.
        tokens: of the batch.
        element_bytes: of a weight and of an activation.
    """
    count = count_parameters(model)
    weights = count.embeddings + count.layers + count.final_norm
    width, inner = model.hidden_size, model.intermediate_size
    widest = max(3 * width + width, 2 * inner + inner)  # q, k, v and the result; both halves of GeGLU and their product
    return element_bytes * (weights + tokens * (width + widest))


def sm_use(model: ModelConfig, num_sms: int) -> float:
    """Return the published heuristic: of each weight's 128 x 256 blocks the last wave's share of the SMs, on average.

    Appendix B of the ModernBERT paper: the blocks modulo the SMs, divided by the SMs; a full last wave is 1. It knows
    no tokens and is shown beside the prediction, not used by it.
    """
    shares = []
    for rows, columns in weights_of(model).values():
        blocks = min(-(-rows // 128) * -(-columns // 256), -(-rows // 256) * -(-columns // 128))
        shares.append((blocks % num_sms or num_sms) / num_sms)
    return sum(shares) / len(shares)
