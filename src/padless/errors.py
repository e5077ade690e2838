"""Errors that are the user's to mend: one line of cause, one line of remedy, no traceback (exit code 2).

Everything else is our fault and keeps its traceback (exit code 1). A run that a signal stopped ends with 85:
start me again.
"""


class PadlessError(Exception):
    """Base of all errors a user can mend.

    Args:
        cause: what is wrong and which value it has, one line.
        remedy: what to do about it, one line.
    """

    exit_code = 2

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause, remedy)
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        """Both lines, as a user sees them."""
        return f"{self.cause}\n  remedy: {self.remedy}"


class ConfigError(PadlessError):
    """A setting is unknown, has no effect, or contradicts another."""


class DataError(PadlessError):
    """Documents, shards, a manifest or a tokenizer cannot be used."""


class CheckpointError(PadlessError):
    """A checkpoint or run folder cannot be used."""


class ModelError(PadlessError):
    """Weights do not fit a model, or an export does not reproduce it."""


class TrainingError(PadlessError):
    """Training had to stop: a loss that is not finite, a lost rank."""


class Stopped(Exception):
    """A signal stopped the run; the same command goes on from its newest checkpoint.

    Args:
        message: what stopped it and where it stands, one line.
    """

    exit_code = 85
