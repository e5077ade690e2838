"""The commands of README and docs are real: every configuration they name composes and passes all checks."""

import os
import re
import shlex
from pathlib import Path

import pytest

from padless.cli import main
from padless.config.check import check, ranks_to_check
from padless.config.compose import compose

README = Path(__file__).parents[1] / "README.md"
DOCS = sorted((README.parent / "docs").glob("*.md"))
PLACEHOLDERS = {"<checkpoint or Hugging Face folder>": "some/folder", "<my run>": "mine", "<clock>": "1_000"}


def commands() -> list[str]:
    text = "\n".join(path.read_text() for path in [README, *DOCS])
    for placeholder, value in PLACEHOLDERS.items():
        text = text.replace(placeholder, value)
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", text, flags=re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line.split("#")[0].strip() for line in joined.splitlines() if line.strip()]


def configurations() -> list[str]:
    named = []
    for command in commands():
        for part in command.split("&&"):
            found = re.search(r"(?:train\.py|padless (?:check|doctor)\b)(.*)", part)
            if found:
                named.append(found.group(1).strip())
    return named


@pytest.mark.parametrize("overrides", configurations())
def test_every_configuration_in_readme_and_docs_composes_and_passes_all_checks(overrides):
    words = [word for word in shlex.split(overrides) if "=" in word]
    config = compose(words)
    check(config, ranks_to_check(config, os.environ))


@pytest.mark.parametrize("command", [line for line in commands() if re.match(r"padless (plan|recipes)\b", line)])
def test_every_plan_and_recipe_in_readme_and_docs_is_printed(command, capsys):
    assert main(shlex.split(command)[1:]) == 0
    assert capsys.readouterr().out


def test_the_two_set_up_commands_are_one_line_each():
    text = README.read_text()
    for name, ending in (("demo", "python train.py"), ("test", "pytest")):
        block = re.search(rf"<!-- command: {name} -->\n```bash\n(.*?)\n```", text, flags=re.DOTALL)
        assert block, name
        assert "\n" not in block.group(1)
        assert block.group(1).endswith(ending)
        assert "-m venv" in block.group(1)
