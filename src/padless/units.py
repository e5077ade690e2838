"""Token counts as people write them ("1.7T", "50B", "3_000") to exact integers and back; bytes in words. No library."""

import re
from decimal import Decimal, InvalidOperation

from padless.errors import ConfigError

_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_NEARLY = re.compile(r"([0-9][0-9_.,]*(?:e[+]?[0-9]{1,2})?) ?([a-z]*?) ?(?:tok|tokens?)?", re.IGNORECASE)
_LONGEST, _MOST_MEANT = 40, 10**16  # characters of a text, tokens it may mean
_OTHER_SUFFIXES = {  # as people write them elsewhere
    "K": ("th", "thousand", "tsd"),
    "M": ("kk", "mm", "mn", "mio", "mln", "million", "millions"),
    "B": ("g", "kkk", "bn", "bln", "mrd", "billion", "billions"),
    "T": ("tn", "trn", "trillion", "trillions"),
}


def parse_tokens(text: str | int) -> int:
    """Return the exact number of tokens that ``text`` names.

    Args:
        text: digits with optional ``_`` separators, an optional decimal part, and an optional suffix K, M, B or T
            (powers of 1000), such as ``"1.719T"`` or ``"3_000"``; an integer passes through.

    Raises:
        ConfigError: not a number, negative, or not a whole number of tokens.
    """
    remedy = 'write whole tokens such as 3_000, "50B" or "1.7T" (K, M, B, T are powers of 1000)'
    stripped = str(text).strip()
    suffix = stripped[-1:].upper() if stripped[-1:].isalpha() else ""
    digits = stripped[: len(stripped) - len(suffix)].rstrip()
    if suffix not in _FACTORS or not digits or not set(digits) <= set("0123456789._"):
        meant = _meant(stripped)
        hint = "" if meant is None else f"did you mean {format_tokens(meant)}? "
        raise ConfigError(f"{text!r} is not a number of tokens", hint + remedy)
    try:
        exact = Decimal(digits.replace("_", "")) * _FACTORS[suffix]
    except InvalidOperation:
        raise ConfigError(f"{text!r} is not a number of tokens", remedy) from None
    if exact != exact.to_integral_value():
        raise ConfigError(f"{text!r} is {exact} tokens, not a whole number", remedy)
    return int(exact)


def _meant(text: str) -> int | None:
    """Return the tokens that a text like "15kk", "1,000" or "1e9" most likely means, None if that is not clear."""
    found = _NEARLY.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        return None
    number, word = found[1].replace("_", ""), found[2].lower()
    factors = {suffix.lower(): factor for suffix, factor in _FACTORS.items()}
    factors |= {other: _FACTORS[suffix] for suffix, others in _OTHER_SUFFIXES.items() for other in others}
    if re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+", number) and not word:
        number = number.replace(",", "")  # thousands
    try:
        exact = Decimal(number.replace(",", ".")) * factors[word]
    except (InvalidOperation, KeyError):
        return None
    return int(exact) if exact == exact.to_integral_value() and exact <= _MOST_MEANT else None


def format_tokens(tokens: int) -> str:
    """Return the shortest string that :func:`parse_tokens` turns back into ``tokens``: 1_700_000_000_000 -> "1.7T"."""
    plain = f"{tokens:_}"
    for suffix in ("T", "B", "M", "K"):
        scaled = Decimal(tokens) / _FACTORS[suffix]
        text = f"{scaled.normalize():f}{suffix}"
        if scaled >= 1 and len(text) <= len(plain):
            return text
    return plain


def approximate_tokens(tokens: float) -> str:
    """Return ``tokens`` to four significant digits, for people: 1_712_345_678 -> "1.712B". Does not parse back."""
    for suffix in ("T", "B", "M", "K"):
        if tokens >= _FACTORS[suffix]:
            return f"{tokens / _FACTORS[suffix]:.4g}{suffix}"
    return f"{tokens:.0f}"


def approximate_bytes(num_bytes: float) -> str:
    """Return bytes to three digits: 1_802_000_000 -> "1.8 GB"."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}" if num_bytes < 999.5 * size else f"{num_bytes / size:.0f} {unit}"
    return f"{num_bytes:.0f} bytes"
