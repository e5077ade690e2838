"""Where each value of a composed configuration is written, and the comment behind it: a recipe's citations.

Hydra says which files make up the configuration, and in which order; each file is read for the line of every key and
for what stands behind ``#`` on that line. The last file that sets a key is its source, as it is for the value.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from padless.config.compose import ROOT, YAML_FOLDER
from padless.config.plain_yaml import without_aliases

_NOT_VALUES = ("defaults", "hydra")


@dataclass(frozen=True)
class Source:
    """Where a value is written.

    Attributes:
        file: path below ``yamls/``, such as ``recipe/modernbert_base.yaml``.
        line: line number, from 1.
        comment: what stands behind ``#`` on that line; may be empty.
    """

    file: str
    line: int
    comment: str


def sources_of(overrides: Sequence[str]) -> dict[str, Source]:
    """Return the source of every key, sections included, of what ``overrides`` compose.

    Values given by the overrides themselves have no file; theirs is the source of what they replace.

    Args:
        overrides: groups such as ``recipe=modernbert_base``; they have to compose.
    """
    found: dict[str, Source] = {}
    for file, package in files_of(overrides):
        for key, source in sources_in((YAML_FOLDER / file).read_text("utf-8"), file).items():
            found[f"{package}.{key}" if package else key] = source
    return found


def files_of(overrides: Sequence[str]) -> list[tuple[str, str]]:
    """Return (path below ``yamls/``, place in the tree) of each file that makes up a configuration; later ones win."""
    with initialize_config_dir(str(YAML_FOLDER), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parts = loader.compute_defaults_list(ROOT, list(overrides), RunMode.RUN).defaults
    named = [(f"{part.config_path}.yaml", part.package or "") for part in parts]
    return [(file, package) for file, package in named if (YAML_FOLDER / file).is_file()]


def sources_in(text: str, file: str) -> dict[str, Source]:
    """Return the source of every key that the YAML ``text`` sets, by its full name within the file."""
    comments = line_comments(text)
    root = yaml.compose(text, Loader=without_aliases(yaml.SafeLoader))
    return {key: Source(file, line + 1, comments.get(line, "")) for key, line in _keys(root, "")}


def line_comments(text: str) -> dict[int, str]:
    """Return the comment behind the code of each line that has both, by line number from 0."""
    code_ends: dict[int, int] = {}
    for token in yaml.scan(text):
        mark = token.end_mark
        code_ends[mark.line] = max(code_ends.get(mark.line, 0), mark.column)
    rests = {line: row[code_ends.get(line, 0) :].strip() for line, row in enumerate(text.splitlines())}
    return {line: rest.lstrip("#").strip() for line, rest in rests.items() if code_ends.get(line) and rest[:1] == "#"}


def header_of(path: Path) -> list[str]:
    """Return the comment lines that open a file, without ``#`` and without Hydra's package line."""
    lines = []
    for row in path.read_text("utf-8").splitlines():
        if not row.startswith("#"):
            break
        if not row.startswith("# @package"):
            lines.append(row.removeprefix("#").removeprefix(" "))
    return lines


def _keys(node: yaml.Node | None, path: str) -> Iterator[tuple[str, int]]:
    """Yield (full key, line from 0) of every key below a mapping."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value in node.value:
        if not path and key_node.value in _NOT_VALUES:
            continue
        key = f"{path}.{key_node.value}" if path else str(key_node.value)
        yield key, key_node.start_mark.line
        yield from _keys(value, key)
