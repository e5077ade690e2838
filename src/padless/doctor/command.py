"""The doctor's round: every check by itself, every line printed as it is found, a summary at the end."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from functools import partial

from rich.console import Console
from rich.text import Text

from padless.config.branches import with_branches
from padless.config.check import check, ranks_to_check
from padless.config.compose import compose
from padless.config.schema import Config
from padless.doctor import host, leftovers, network, probe, software, storage, streams
from padless.doctor.finding import Finding, Look, isolated, ok
from padless.errors import ConfigError

_IMPORTED = ("torch", "composer", "streaming", "transformers")
_COLOURS = {"ok": "green", "note": "yellow", "mend": "bold red"}
_NAME_WIDTH = 18
_GLOO_REMEDY = "allow local connections on the interface of this machine's name, or set GLOO_SOCKET_IFNAME=lo"


def doctor_command(overrides: list[str], as_json: bool) -> int:
    """Check what a run with these overrides needs of this machine, and print a line for each thing.

    Args:
        overrides: Hydra's, as for ``train.py``; none checks the demo's needs.
        as_json: print one JSON object instead of lines.

    Returns:
        0 if a run would start, 2 if a line needs mending.
    """
    console = Console(quiet=as_json)
    findings = []
    for finding in examine(overrides):
        findings.append(finding)
        _print_line(console, finding)
    to_mend = sum(finding.state == "mend" for finding in findings)
    if as_json:
        checks = [dataclasses.asdict(finding) for finding in findings]
        text = json.dumps({"ok": to_mend == 0, "checks": checks})
        Console().print(text, markup=False, highlight=False, soft_wrap=True)
    _print_summary(console, findings)
    return 2 if to_mend else 0


def examine(overrides: Sequence[str]) -> Iterator[Finding]:
    """Yield every line. With settings that cannot be used, only what needs none is looked at."""
    with contextlib.ExitStack() as stack:
        gloo = stack.enter_context(probe.start_loopback("gloo", 2))
        imports = stack.enter_context(probe.start_import(_IMPORTED))
        config: Config | None = None
        try:
            config = compose(overrides)
        except ConfigError as error:
            yield Finding("settings", "mend", error.cause, error.remedy)
        if config is not None:
            yield from isolated("settings", partial(_look_at_settings, config))
        yield from _round(_machine())
        if config is not None:
            yield from _round(_needs(with_branches(config)))
        yield from isolated("imports", partial(probe.look_at_imports, imports, _IMPORTED))
        yield from isolated("gloo", partial(probe.look_at_loopback, gloo, "gloo", 2, _GLOO_REMEDY))


def _round(looks: Sequence[tuple[str, Look]]) -> Iterator[Finding]:
    for name, look in looks:
        yield from isolated(name, look)


def _look_at_settings(config: Config) -> Iterator[Finding]:
    ranks = ranks_to_check(config, os.environ)
    for line in check(config, ranks):
        yield Finding("settings", "note", line)
    yield ok("settings", f"run {config.run.name!r}: every rule holds for {ranks} {'ranks' if ranks > 1 else 'rank'}")


def _machine() -> list[tuple[str, Look]]:
    return [
        ("python", software.look_at_python),
        ("packages", software.look_at_packages),
        ("torch", software.look_at_torch_version),
        ("encoding", software.look_at_encoding),
        ("open files", host.look_at_open_files),
        ("temporary folder", host.look_at_temporary_folder),
        ("leftovers", leftovers.look_at_leftovers),
        ("network", partial(network.look_at_network, os.environ)),
        ("launcher", partial(network.look_at_launcher, os.environ)),
    ]


def _needs(config: Config) -> list[tuple[str, Look]]:
    looks: list[tuple[str, Look]] = [
        ("run folder", partial(storage.look_at_run_folder, config)),
        ("disk", partial(storage.look_at_disk, config)),
    ]
    looks += [(f"stream {name}", partial(streams.look_at_stream, config, name)) for name in config.data.streams]
    return [
        *looks,
        ("tokenizer", partial(streams.look_at_tokenizer, config)),
        ("source", partial(streams.look_at_source, config)),
        ("gpu", partial(_look_with_torch, config)),
    ]


def _look_with_torch(config: Config) -> Iterator[Finding]:
    """Look at what depends on the GPUs and the ranks of this machine; importing torch takes seconds, so it is late."""
    from padless.doctor import compute

    gpus = compute.visible_gpus(config.hardware)
    ranks = compute.ranks_here(config.hardware, gpus)
    threads = compute.threads_of_a_rank(config.hardware)
    load = os.getloadavg()[0]
    looks: list[tuple[str, Look]] = [
        ("gpu", partial(compute.look_at_gpu, config, gpus)),
        ("attention", partial(compute.look_at_attention, config, gpus)),
        ("compile", partial(compute.look_at_compile, config, gpus)),
        ("cpus", partial(host.look_at_cpus, threads, ranks, host.usable_cpus(), load)),
        ("memory", partial(host.look_at_memory, config, ranks, gpus)),
        ("shared memory", partial(host.look_at_shared_memory, config, ranks, gpus)),
        ("nccl", partial(compute.look_at_nccl, gpus)),
    ]
    yield from _round(looks)


def _print_line(console: Console, finding: Finding) -> None:
    line = Text.assemble(
        (f"{finding.state:<6}", _COLOURS[finding.state]), f"{finding.name:<{_NAME_WIDTH}}{finding.found}"
    )
    console.print(line, soft_wrap=True)
    if finding.remedy is not None:
        console.print(Text(f"{'':6}{'remedy:':<{_NAME_WIDTH}}{finding.remedy}"), soft_wrap=True)


def _print_summary(console: Console, findings: Sequence[Finding]) -> None:
    counts = {state: sum(finding.state == state for finding in findings) for state in _COLOURS}
    notes = f"{counts['note']} {'note' if counts['note'] == 1 else 'notes'}"
    console.print(Text(f"doctor: {counts['ok']} ok, {notes}, {counts['mend']} to mend"), soft_wrap=True)
