"""Which settings of two runs differ, those that change results first."""

from dataclasses import dataclass
from typing import Any

from padless.config.differences import differences
from padless.config.load import results_part, to_plain
from padless.config.schema import Config


@dataclass(frozen=True)
class SettingDifference:
    """One setting with its value in each run; ``None`` also where a run does not have it."""

    key: str
    a: Any
    b: Any
    changes_results: bool


def different_settings(a: Config, b: Config) -> list[SettingDifference]:
    """Return the settings that differ, those of :func:`padless.config.load.results_part` first, in the config's order.

    A section that only one run has (a phase, a stream, a batch warmup) is one difference, not one a key.
    """
    results = differences(results_part(a), results_part(b))
    named = {key for key, _, _ in results}
    rest = [entry for entry in differences(to_plain(a), to_plain(b)) if entry[0] not in named]
    return [
        *(SettingDifference(*entry, changes_results=True) for entry in results),
        *(SettingDifference(*entry, changes_results=False) for entry in rest),
    ]
