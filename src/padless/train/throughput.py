"""What the speed of a step is measured by: model FLOP/s utilisation, and the share of it spent waiting for data."""

import time
from collections import deque
from collections.abc import Callable

from padless.config.schema import ModelConfig
from padless.data.loader import StepInfo
from padless.plan.flops import step_flops

WARN_ABOVE = 0.05
_WINDOW_STEPS = 50
_LEAST_S = 30.0
_REPEATED_AFTER_S = 600.0


class Speedometer:
    """Measures steps, and warns where they wait for data.

    Args:
        model: shape.
        block_tokens: nominal tokens of a block.
        peak_flops: of this rank's device, operations a second; None where it is not known.
        watch: warns of a lasting wait for data; None on ranks that do not print.
        say: prints one line.
    """

    def __init__(
        self,
        model: ModelConfig,
        block_tokens: int,
        peak_flops: float | None,
        watch: "DataWaitWatch | None",
        say: Callable[[str], None],
    ) -> None:
        self._model, self._block_tokens, self._peak_flops = model, block_tokens, peak_flops
        self._watch, self._say = watch, say

    def measure(self, step: StepInfo, batch_blocks: int, data_wait_s: float, seconds: float) -> dict[str, float | None]:
        """Return the figures of a step, for the metrics.

        Args:
            step: what it was made of.
            batch_blocks: blocks of all ranks.
            data_wait_s: seconds before its batch was there.
            seconds: what all of it took.

        Returns:
            Real tokens a second of all ranks; this rank's share of its device's peak (MFU), or None; the share of the
            time that went by waiting for data; the share of nominal tokens that are real (fill).
        """
        line = self._watch.note(data_wait_s, seconds, time.monotonic()) if self._watch is not None else None
        if line is not None:
            self._say(line)
        used = utilisation(self._model, step, seconds, self._peak_flops)
        return {
            "real_tokens_per_s": round(step.real_tokens / seconds, 1),
            "mfu": None if used is None else round(used, 4),
            "data_wait_share": round(data_wait_s / seconds, 4),
            "fill": round(step.real_tokens / (batch_blocks * self._block_tokens), 5),
        }


def utilisation(model: ModelConfig, step: StepInfo, seconds: float, peak_flops: float | None) -> float | None:
    """Return which share of the device's peak a step's necessary arithmetic took (MFU), or None without a peak.

    Args:
        model: shape.
        step: has this rank's microbatches.
        seconds: what the whole step took.
        peak_flops: of this rank's device, operations a second.
    """
    if peak_flops is None:
        return None
    lengths = [length for blocks in step.own_blocks for block in blocks for length in block.lengths_S.tolist()]
    return step_flops(model, lengths, sum(batch.num_masked for batch in step.own_batches)) / seconds / peak_flops


class DataWaitWatch:
    """Warns of a lasting wait for data: its share over the last 50 steps, and 30 s at least.

    Args:
        num_workers: ``data.num_workers`` of the run, for the remedy.
        reads_remote: whether a stream is fetched while the run reads it.
    """

    def __init__(self, num_workers: int, reads_remote: bool) -> None:
        self._num_workers, self._reads_remote = num_workers, reads_remote
        self._steps: deque[tuple[float, float]] = deque(maxlen=_WINDOW_STEPS)
        self._warned_s: float | None = None

    def note(self, wait_s: float, step_s: float, now_s: float) -> str | None:
        """Add a step, and return a line if there is something to say; at most one in ten minutes.

        Args:
            wait_s: seconds of the step before its batch was there.
            step_s: seconds of the whole step.
            now_s: a monotonic clock.
        """
        self._steps.append((wait_s, step_s))
        total_s = sum(step for _, step in self._steps)
        if len(self._steps) < _WINDOW_STEPS or total_s < _LEAST_S:
            return None
        share = sum(wait for wait, _ in self._steps) / total_s
        if share <= WARN_ABOVE or (self._warned_s is not None and now_s - self._warned_s < _REPEATED_AFTER_S):
            return None
        self._warned_s = now_s
        return f"warning: {share:.0%} of the last {_WINDOW_STEPS} steps' time went by waiting for data; {self._remedy}"

    @property
    def _remedy(self) -> str:
        more = f"raise data.num_workers={self._num_workers}"
        if self._reads_remote:
            return (
                f"{more}, or copy the remote streams to a local disk first; padless bench loader measures what it gives"
            )
        return f"{more}, or put the shards on a faster disk; padless bench loader measures what it gives"
