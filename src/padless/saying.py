"""How a command says a line: as it is, since brackets and numbers in it are not for rich to read."""

from collections.abc import Callable

from rich.console import Console

Say = Callable[[str], None]
"""Is told one line for people."""


def silent(text: str) -> None:
    """Say nothing: for whoever calls a function of a command from a program."""


def say_on(console: Console) -> Say:
    """Return what prints a line on this console, whole: no markup, no colours, never broken."""

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    return say
