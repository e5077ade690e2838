"""Validation every ``eval_every_tokens`` of a phase and at its end."""

from collections.abc import Callable

from composer.core import Callback, State
from composer.loggers import Logger

from padless.model.masked_lm import MaskedLM
from padless.train.callbacks.metrics import MetricsFile
from padless.train.callbacks.record import StepRecord, clock_tokens, is_due, step_number
from padless.train.forgetting import losses_by_stream
from padless.train.validation import Validation
from padless.units import approximate_tokens


class Validate(Callback):
    """Evaluates between steps and writes an ``eval`` line to the metrics.

    Args:
        record: the step record.
        model: the encoder with its head, unwrapped.
        validation: fixed blocks with fixed masks.
        metrics: the file.
        end_tokens: clock at which fitting ends.
        say: prints one line.
        also: measures what else belongs to a validation (``eval_`` in its names); None where there is nothing.
        names_streams: whether the printed line has the loss of each stream; the metrics always have it.
    """

    def __init__(
        self,
        record: StepRecord,
        model: MaskedLM,
        validation: Validation,
        metrics: MetricsFile,
        end_tokens: int,
        say: Callable[[str], None],
        also: Callable[[], dict[str, float]] | None = None,
        *,
        names_streams: bool = False,
    ) -> None:
        self._record, self._model, self._validation = record, model, validation
        self._metrics, self._end_tokens, self._say, self._also = metrics, end_tokens, say, also
        self._names_streams = names_streams

    def fit_start(self, state: State, logger: Logger) -> None:
        """Evaluate the untrained model once, at clock 0."""
        if clock_tokens(state) == 0:
            self._evaluate(state, logger)

    def batch_end(self, state: State, logger: Logger) -> None:
        """Evaluate if an interval was crossed or the phase has ended."""
        if is_due(self._record, state, self._record.plan.phase.eval_every_tokens, self._end_tokens):
            self._evaluate(state, logger)

    def _evaluate(self, state: State, logger: Logger) -> None:
        figures = self._validation.evaluate(self._model)
        if not figures:
            return
        also = {} if self._also is None else self._also()
        figures |= also
        place = {"tokens": clock_tokens(state), "step": step_number(state), "phase": self._record.plan.name}
        self._metrics.append({**place, **figures})
        logger.log_metrics(figures)
        self._record.eval_loss = figures["eval_loss"]
        line = f"validation loss {figures['eval_loss']:.4f} at {approximate_tokens(clock_tokens(state))} tokens"
        if self._names_streams and (by_stream := losses_by_stream(figures)):
            line += f" ({', '.join(f'{name} {loss:.4f}' for name, loss in by_stream.items())})"
        self._say("; ".join([line, *(f"{name.removeprefix('eval_')} {value:.2g}" for name, value in also.items())]))
