"""A column of figures for people, the best of them with a star."""

from collections.abc import Sequence


def mark_best(values: Sequence[float | None], form: str, *, highest: bool = False) -> list[str]:
    """Return each figure as text, a star behind the best and a blank behind the others; nothing for None.

    Args:
        values: a column.
        form: how a figure is written, such as ``.4f``.
        highest: the highest is the best; else the lowest.
    """
    known = [value for value in values if value is not None]
    best = (max if highest else min)(known, default=None)
    return ["" if value is None else f"{value:{form}}{'*' if value == best else ' '}" for value in values]
