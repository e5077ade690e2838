"""Progress: a plain line now and then where there is no terminal, a bar where there is one."""

import io
import re

from rich.console import Console

from padless.data import progress
from padless.data.progress import Progress


def test_plain_lines_say_how_much_is_done_and_how_long_it_takes(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with Progress(Console(file=out), "tokenising", 1000) as shown:
        for second, done in ((1, 10), (11, 250), (12, 260), (31, 500)):
            now[0] = 100.0 + second
            shown.show(done)
    assert out.getvalue().splitlines() == [
        "tokenising: 25% after 11 s, about 33 s left",
        "tokenising: 50% after 31 s, about 31 s left",
    ]


def test_a_terminal_gets_a_bar_with_the_time_left():
    out = io.StringIO()
    with Progress(Console(file=out, force_terminal=True, width=120), "packing", 100) as shown:
        shown.show(40)
        shown._bar.refresh()
    assert re.search(r"packing.*40%.*left", out.getvalue())
