"""``padless bench all``: every bench with its defaults, one after the other, and a summary of all ratios with targets.

Each runs as a process of its own and leaves its files and a log in a folder of its own. ``quick=true`` cuts batches and
repeats to a look at whether everything runs; its ratios are no measurement.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from padless.bench.command import one_of, settings_of
from padless.bench.machine import describe_machine
from padless.bench.result import number_text
from padless.bench.step import speaker
from padless.data.durable import write_durably
from padless.errors import ConfigError, TrainingError

# In the order of the README; what quick=true sets.
BENCHES: dict[str, tuple[str, ...]] = {
    "step": ("cases=web", "shapes=nano", "batches=5", "warmup=1", "seeds=0", "tokens=4096"),
    "inference": ("shapes=nano", "batches=5", "warmup=1", "seeds=0", "tokens=8192"),
    "attention": ("lengths=64,1024", "cases=web", "tokens=2048", "repeats=2"),
    "memory": ("shape=nano", "tokens=2048,4096", "vocabularies=2048,8192", "batches=1", "seeds=0"),
    "packing": ("documents=20000", "online_documents=1000", "repeats=1", "seeds=0"),
    "loader": ("blocks=200", "text_batches=4", "repeats=1"),
    "prepare": ("megabytes=2", "repeats=1"),
    "overhead": ("steps=40", "microbatches=2", "repeats=1"),
    "growth": ("source_steps=20", "steps=10", "random_steps=10", "seeds=0", "variants=tiled", "targets=8x128"),
}
DEFAULTS = {"benches": ",".join(BENCHES), "quick": "false", "folder": "runs/bench"}


@dataclass(frozen=True)
class Outcome:
    """One bench of the run: ``plain`` is its JSON file, or None where it failed."""

    name: str
    seconds: float
    plain: Mapping[str, Any] | None


def bench(arguments: list[str], as_json: bool) -> None:
    """Run all benches and write ``all.md`` and ``all.json``. A target that is missed is said, and is no error.

    Raises:
        ConfigError: a setting is wrong.
        TrainingError: a bench failed; the others were run all the same.
    """
    told = settings_of(arguments, DEFAULTS)
    names = [one_of("benches", each, tuple(BENCHES)) for each in told["benches"].split(",")]
    if len(set(names)) != len(names):
        raise ConfigError(f"benches={told['benches']} names one twice", "name each once")
    is_quick = one_of("quick", told["quick"], ("true", "false")) == "true"
    folder, say = Path(told["folder"]), speaker(as_json)
    expected_s = last_seconds(folder / "all.json", is_quick)
    outcomes: list[Outcome] = []
    for number, name in enumerate(names):
        say(f"{number + 1}/{len(names)} {name}{eta_text(names[number:], expected_s, outcomes)}")
        outcomes.append(run_one(name, BENCHES[name] if is_quick else (), folder / name))
        say(f"{number + 1}/{len(names)} {verdict(outcomes[-1])}")
    plain = as_plain(outcomes, is_quick)
    write_durably(folder / "all.json", (json.dumps(plain, indent=1) + "\n").encode())
    write_durably(folder / "all.md", as_markdown(plain).encode())
    say(as_markdown(plain))
    if as_json:
        sys.stdout.write(json.dumps(plain) + "\n")
    require_whole(outcomes, folder)


def run_one(name: str, settings: Sequence[str], folder: Path) -> Outcome:
    """Run one bench in a process of its own, its output in ``folder``/log.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").unlink(missing_ok=True)
    began_s = time.monotonic()
    command = [sys.executable, "-m", "padless.cli", "bench", name, *settings, f"folder={folder}"]
    with (folder / "log.txt").open("wb") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    path = folder / f"{name}.json"
    plain = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return Outcome(name, time.monotonic() - began_s, plain if code == 0 else None)


def last_seconds(path: Path, is_quick: bool) -> dict[str, float]:
    """Return how long each bench took the last time, as ``all.json`` has it, if that run was of the same kind."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return {each["bench"]: float(each["seconds"]) for each in plain["benches"] if plain["quick"] is is_quick}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def eta_text(left: Sequence[str], expected_s: Mapping[str, float], done: Sequence[Outcome]) -> str:
    """Return how long the benches that are left will take, from the last time, else from this run so far."""
    mean_s = sum(each.seconds for each in done) / len(done) if done else None
    times = [expected_s.get(name, mean_s) for name in left]
    known = [each for each in times if each is not None]
    if len(known) < len(times):
        return ""
    return f", ETA {timedelta(seconds=round(sum(known)))}"


def verdict(outcome: Outcome) -> str:
    """Return one line on a bench: time taken, and targets held and missed."""
    took = f"{outcome.name} took {timedelta(seconds=round(outcome.seconds))}"
    if outcome.plain is None:
        return f"{took}: FAILED"
    asked = [ratio for ratio in outcome.plain["ratios"] if ratio["target"] is not None]
    missed = [ratio["name"] for ratio in asked if not ratio["holds"]]
    held = f"{len(asked) - len(missed)} of {len(asked)} targets held"
    return f"{took}: {held}" + (f"; MISSED: {'; '.join(missed)}" if missed else "")


def as_plain(outcomes: Sequence[Outcome], is_quick: bool) -> dict[str, Any]:
    """Return what ``all.json`` holds: each bench's time, and every ratio that has a target."""
    rows = [
        {"bench": each.name, **ratio}
        for each in outcomes
        if each.plain is not None
        for ratio in each.plain["ratios"]
        if ratio["target"] is not None
    ]
    benches = [{"bench": each.name, "seconds": each.seconds, "ok": each.plain is not None} for each in outcomes]
    held = all(row["holds"] for row in rows)
    return {"quick": is_quick, "machine": describe_machine(), "held": held, "benches": benches, "ratios": rows}


def as_markdown(plain: Mapping[str, Any]) -> str:
    """Return the summary as a table."""
    lines = ["### all", "", "| bench | ratio | min | median | max | asked | holds |"]
    lines.append("| --- | --- | ---: | ---: | ---: | ---: | --- |")
    for row in plain["ratios"]:
        spread = " | ".join(number_text(row[key]) for key in ("min", "median", "max"))
        sign = "<=" if row["is_lower_better"] else ">="
        holds = "yes" if row["holds"] else "**no**"
        lines.append(f"| {row['bench']} | {row['name']} | {spread} | {sign} {row['target']:g} | {holds} |")
    missed = sum(not row["holds"] for row in plain["ratios"])
    lines += ["", f"{len(plain['ratios']) - missed} of {len(plain['ratios'])} targets held."]
    failed = [each["bench"] for each in plain["benches"] if not each["ok"]]
    lines += [f"Failed: {', '.join(failed)}."] if failed else []
    lines += ["Quick: too few repeats for a measurement."] if plain["quick"] else []
    times = ", ".join(f"{each['bench']} {timedelta(seconds=round(each['seconds']))}" for each in plain["benches"])
    facts = ", ".join(f"{key} {value}" for key, value in plain["machine"].items())
    return "\n".join([*lines, "", f"Times: {times}. Measured on: {facts}.", ""])


def require_whole(outcomes: Sequence[Outcome], folder: Path) -> None:
    """Stop if a bench failed.

    Raises:
        TrainingError: names those that did.
    """
    failed = [each.name for each in outcomes if each.plain is None]
    if failed:
        raise TrainingError(f"failed: {', '.join(failed)}", f"read {folder / failed[0] / 'log.txt'}")
