"""Python, the packages and their versions, text encoding: what the environment brings, without importing any of it."""

import importlib.metadata
import locale
import platform
import sys
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from padless.doctor.finding import Finding, mend, note, ok

NEWEST_TESTED_TORCH = (2, 14)  # the newest-torch profile: Composer's torch pin overridden at installation
_NAMED = ("mosaicml", "mosaicml-streaming", "numpy", "transformers")
_REINSTALL = "pip install -e . in a fresh environment installs versions that fit"


def look_at_python() -> Iterator[Finding]:
    """Compare this Python with the range that the project takes."""
    wanted = importlib.metadata.metadata("padless")["Requires-Python"]
    version = platform.python_version()
    if SpecifierSet(wanted).contains(version, prereleases=True):
        yield ok("python", f"{version} (padless takes {wanted})")
    else:
        yield mend("python", f"{version}, padless takes {wanted}", "make the environment anew with python3.11")


def requirements_of(package: str) -> list[Requirement]:
    """Return what an installed package needs here, extras not asked for left out."""
    every = [Requirement(text) for text in importlib.metadata.requires(package) or ()]
    return [need for need in every if need.marker is None or need.marker.evaluate({"extra": ""})]


def installed(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def look_at_packages() -> Iterator[Finding]:
    """Compare every package that padless needs with the bounds that padless gives."""
    needs = requirements_of("padless")
    wrong = [line for need in needs if (line := misfit(need, installed(need.name))) is not None]
    for line in wrong:
        yield mend("packages", line, _REINSTALL)
    if not wrong:
        named = ", ".join(f"{name} {installed(name)}" for name in _NAMED)
        yield ok("packages", f"{len(needs)} within their bounds ({named})")


def misfit(need: Requirement, version: str | None) -> str | None:
    """Return how a version fails a need, in words, or None."""
    if version is None:
        return f"{need.name} is not installed, padless takes {need.specifier}"
    if need.specifier.contains(version, prereleases=True):
        return None
    return f"{need.name} {version} is installed, padless takes {need.specifier}"


def look_at_torch_version() -> Iterator[Finding]:
    """Say which of the two supported profiles this torch is: Composer's own pins, or the newest that is tested."""
    version = installed("torch")
    if version is None:
        yield mend("torch", "torch is not installed", _REINSTALL)
        return
    pins = next((need.specifier for need in requirements_of("mosaicml") if need.name == "torch"), SpecifierSet())
    yield torch_profile(version, pins)


def torch_profile(version: str, pins: SpecifierSet) -> Finding:
    """Return the line for a torch version, given Composer's own bounds for it."""
    public = version.partition("+")[0]
    if pins.contains(public, prereleases=True):
        return ok("torch", f"{version} (the default profile: Composer takes {pins})")
    major_minor = tuple(int(part) for part in public.split(".")[:2])
    newest = ".".join(map(str, NEWEST_TESTED_TORCH))
    if major_minor == NEWEST_TESTED_TORCH:
        return ok("torch", f"{version} (the newest-torch profile; Composer itself takes {pins})")
    if major_minor < (2, 7):
        return mend("torch", f"{version} is older than 2.7", _REINSTALL)
    return note(
        "torch", f"{version} is neither of the tested profiles: Composer's own pins ({pins}) and torch {newest}"
    )


def look_at_encoding() -> Iterator[Finding]:
    """Look whether file names, files and output are UTF-8: documents and fill-in lines are."""
    names = {
        "file names": sys.getfilesystemencoding(),
        "files": locale.getpreferredencoding(False),
        "output": getattr(sys.stdout, "encoding", None) or "utf-8",
    }
    yield encoding_line(names)


def encoding_line(encodings: dict[str, str]) -> Finding:
    """Return the line for the encodings of file names, files and output."""
    other = {what: name for what, name in encodings.items() if name.lower().replace("-", "") != "utf8"}
    if not other:
        return ok("encoding", "UTF-8")
    listed = ", ".join(f"{what}: {name}" for what, name in other.items())
    return mend("encoding", f"not UTF-8 ({listed})", "export LC_ALL=C.UTF-8, or PYTHONUTF8=1")
