"""What two runs' ``lineage.jsonl`` say of where, with what and how often they were started.

Lines of every version are read: a field that a line has not is not compared.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from padless.diff.read import Run

_COUNTED = {"resumes": "resume", "rewinds": "rewind", "phases ended": "phase_end", "stops": "stopped"}
_LISTED_CHANGES = ("changes", "config_changes", "accepted", "changed")


@dataclass(frozen=True)
class Fact:
    """One thing that is said of both runs, as text."""

    name: str
    a: str
    b: str

    @property
    def differs(self) -> bool:
        """Whether the runs differ in it."""
        return self.a != self.b


def compare_provenance(a: Run, b: Run) -> list[Fact]:
    """Return all facts that at least one run's lineage has, in order: software, place, data, then counts of events."""
    facts_a, facts_b = _facts(a.lineage), _facts(b.lineage)
    names = [*facts_a, *(name for name in facts_b if name not in facts_a)]
    return [Fact(name, facts_a.get(name, "unknown"), facts_b.get(name, "unknown")) for name in names]


def _facts(lineage: list[dict[str, Any]]) -> dict[str, str]:
    """Return the facts of one lineage; one that took several values in turn has them all, in order."""
    seen: dict[str, list[str]] = {"git": [], "python": []}
    for line in lineage:
        for name, value in _facts_of_line(line):
            seen.setdefault(name, []).append(value)
    facts = {name: ", then ".join(_without_repeats(values)) for name, values in seen.items() if values}
    for name, event in _COUNTED.items():
        facts[name] = str(sum(line.get("event") == event for line in lineage))
    facts["changes of ranks"] = str(max(0, len(_without_repeats(seen.get("ranks", ()))) - 1))
    facts["changes of settings"] = str(sum(_number_of_changes(line) for line in lineage))
    return facts


def _facts_of_line(line: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for name in ("git", "python"):
        if isinstance(line.get(name), str):
            yield name, line[name]
    for package, version in _mapping(line, "versions"):
        yield f"version of {package}", "not installed" if version is None else str(version)
    hosts = line.get("hosts")
    if isinstance(hosts, list):
        yield "hosts", " ".join(sorted({str(host) for host in hosts}))
    elif isinstance(line.get("host"), str):
        yield "hosts", line["host"]
    if isinstance(line.get("world_size"), int):
        yield "ranks", str(line["world_size"])
    for stream, digest in _mapping(line, "data"):
        yield f"data of {stream}", str(digest)


def _mapping(line: Mapping[str, Any], key: str) -> Iterable[tuple[str, Any]]:
    value = line.get(key)
    return [(str(name), item) for name, item in value.items()] if isinstance(value, dict) else []


def _number_of_changes(line: Mapping[str, Any]) -> int:
    if line.get("event") == "branch":
        return 0  # what is not the parent's is no change of this run
    return max((len(line[key]) for key in _LISTED_CHANGES if isinstance(line.get(key), list)), default=0)


def _without_repeats(values: Iterable[str]) -> list[str]:
    """Return values that are not the one before."""
    kept: list[str] = []
    for value in values:
        if not kept or kept[-1] != value:
            kept.append(value)
    return kept
