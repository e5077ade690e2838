"""Versions and encodings: what fits is ok, what does not is named with its bounds."""

import platform

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from padless.doctor import software
from padless.doctor.software import encoding_line, misfit, requirements_of, torch_profile

PINS = SpecifierSet(">=2.6.0,<2.7.1")


def test_the_environment_of_the_tests_fits():
    for look in (software.look_at_python, software.look_at_packages, software.look_at_torch_version):
        (finding,) = look()
        assert finding.state in ("ok", "note"), finding


def test_another_python_is_named_with_the_range(monkeypatch):
    monkeypatch.setattr(platform, "python_version", lambda: "3.13.1")
    (finding,) = software.look_at_python()
    assert finding.state == "mend"
    assert finding.found.startswith("3.13.1, padless takes ")


@pytest.mark.parametrize(
    ("version", "line"),
    [
        ("2.1.3", None),
        ("2.2.0", "numpy 2.2.0 is installed, padless takes <2.2,>=2.1"),
        (None, "numpy is not installed, padless takes <2.2,>=2.1"),
    ],
)
def test_a_version_outside_its_bounds_is_named(version, line):
    assert misfit(Requirement("numpy>=2.1,<2.2"), version) == line


def test_packages_outside_their_bounds_are_a_line_each(monkeypatch):
    monkeypatch.setattr(software, "installed", lambda name: {"numpy": "1.26", "mosaicml": None}.get(name, "99"))
    monkeypatch.setattr(
        software, "requirements_of", lambda package: [Requirement("numpy>=2.1"), Requirement("mosaicml")]
    )
    lines = [(finding.state, finding.found.split(",")[0]) for finding in software.look_at_packages()]
    assert lines == [("mend", "numpy 1.26 is installed"), ("mend", "mosaicml is not installed")]


def test_extras_are_not_needed():
    names = {need.name for need in requirements_of("padless")}
    assert {"torch", "mosaicml", "mosaicml-streaming", "numpy", "transformers"} <= names
    assert not {"wandb", "flash-attn", "pytest"} & names


@pytest.mark.parametrize(
    ("version", "state", "text"),
    [
        ("2.7.0", "ok", "the default profile"),
        ("2.7.0+cu126", "ok", "the default profile"),
        ("2.14.1+cu130", "ok", "the newest-torch profile"),
        ("2.9.0", "note", "neither of the tested profiles"),
        ("2.5.1", "mend", "older than 2.7"),
    ],
)
def test_the_profile_of_a_torch_is_said(version, state, text):
    finding = torch_profile(version, PINS)
    assert (finding.state, text in finding.found) == (state, True)


def test_an_encoding_that_is_not_utf_8_is_named():
    assert encoding_line({"files": "UTF-8", "output": "utf8"}).state == "ok"
    finding = encoding_line({"files": "ANSI_X3.4-1968", "output": "utf-8"})
    assert (finding.state, finding.found) == ("mend", "not UTF-8 (files: ANSI_X3.4-1968)")
    assert "LC_ALL=C.UTF-8" in str(finding.remedy)
