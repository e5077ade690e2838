"""What a command says is printed as it is."""

import io

from rich.console import Console

from padless.saying import say_on


def test_a_line_is_printed_whole_and_as_it_is():
    out = io.StringIO()
    line = "[MASK] of [red]1_000 " + "long " * 50
    say_on(Console(file=out, width=40, force_terminal=True))(line)
    assert out.getvalue() == line + "\n"
