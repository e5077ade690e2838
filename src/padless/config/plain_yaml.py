"""YAML without aliases, which can make a small file a huge tree: a few hundred bytes, more than a machine's memory.

padless writes none and its recipes need none; a file that has one is refused before the alias is followed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from omegaconf import _utils


def without_aliases(loader: type[Any]) -> type[Any]:
    """Return the YAML loader class ``loader`` with aliases refused (``yaml.YAMLError``)."""

    class PlainLoader(loader):
        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                place = self.peek_event().start_mark
                raise yaml.YAMLError(f"it uses an alias (*name){'' if place is None else place}")
            return super().compose_node(parent, index)

    return PlainLoader


@contextmanager
def composing_without_aliases() -> Iterator[None]:
    """While Hydra composes, have OmegaConf read every file without aliases, wherever it lies."""
    before = _utils.get_yaml_loader
    plain = without_aliases(before())
    _utils.get_yaml_loader = lambda: plain
    try:
        yield
    finally:
        _utils.get_yaml_loader = before
