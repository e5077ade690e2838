"""``key=value`` words become arguments of the right type, or one line of error."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from padless.data.arguments import parse_arguments, run_script
from padless.errors import ConfigError, DataError

SCRIPTS = Path(__file__).parents[2] / "data_prep"


def work(
    input: str | Path,
    *,
    caps: Sequence[int] = (1,),
    blocks: int = 2,
    share: float = 0.5,
    fast: bool = True,
    dtype: str | None = None,
    console: object = None,
) -> None:
    """Do the work."""
    if input == "bad":
        raise DataError("it is bad", "make it good")


def test_words_are_converted_to_the_types_of_the_parameters():
    words = ["input=a=b", "caps=1_024,8192", "blocks=8_192", "share=1e-3", "fast=false", "dtype=null"]
    assert parse_arguments(work, words) == {
        "input": "a=b",
        "caps": (1024, 8192),
        "blocks": 8192,
        "share": 0.001,
        "fast": False,
        "dtype": None,
    }
    assert parse_arguments(work, ["input=x", "caps=[64]", "dtype=uint16"])["caps"] == (64,)


@pytest.mark.parametrize(
    ("words", "cause", "remedy"),
    [
        (["input=x", "blokcs=3"], "unknown key 'blokcs'", "did you mean blocks"),
        (["input=x", "console=3"], "unknown key 'console'", "did you mean"),
        (["input=x", "x"], "'x' is not key=value", "keys are input, caps"),
        (["input=x", "input=y"], "key 'input' is given twice", "once"),
        ([], "input is missing", "input=..."),
        (["input=x", "blocks=many"], "blocks=many is not understood", "a whole number"),
        (["input=x", "share=much"], "share=much is not understood", "a number"),
        (["input=x", "fast=1"], "fast=1 is not understood", "true or false"),
        (["input=x", "caps=a"], "caps=a is not understood", "whole numbers such as 1024,8192"),
    ],
)
def test_words_that_make_no_sense_are_refused_with_a_remedy(words, cause, remedy):
    with pytest.raises(ConfigError, match=cause) as caught:
        parse_arguments(work, words)
    assert remedy in caught.value.remedy


def test_exit_codes(capsys):
    assert run_script(work, ["input=good"]) == 0
    assert run_script(work, ["input=bad"]) == 2
    assert capsys.readouterr().err == "error: it is bad\n  remedy: make it good\n"
    assert run_script(work, ["--help"]) == 0
    assert "input=... [caps=(1,)]" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["prepare.py", "train_tokenizer.py"])
def test_scripts_say_what_is_missing(script):
    done = subprocess.run([sys.executable, SCRIPTS / script], capture_output=True, text=True)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: input is missing")
    assert len((SCRIPTS / script).read_text().splitlines()) < 60
