"""Where two plain trees differ, key by key in their order."""

from collections.abc import Mapping
from typing import Any


def differences(a: Any, b: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """Return (full key, value in ``a``, value in ``b``) of all that differs; ``None`` also where one has no such key.

    A section that only one of them has is one difference, not one a key.
    """
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = [*a, *(key for key in b if key not in a)]
        sections = [differences(a.get(key), b.get(key), f"{path}.{key}" if path else str(key)) for key in keys]
        return [entry for section in sections for entry in section]
    return [] if a == b else [(path, a, b)]
