"""What may hang or crash does so in another process, and costs no more than its limit."""

import os
import time

import pytest

from padless.doctor.loopback import add_up
from padless.doctor.probe import Probe, look_at_imports, look_at_loopback, start_import, start_loopback


def test_ranks_of_this_machine_sum_over_gloo():
    with start_loopback("gloo", 2) as probe:
        (finding,) = look_at_loopback(probe, "gloo", 2, "remedy")
    assert (finding.state, finding.found) == ("ok", "2 ranks on this machine summed their numbers")


def test_a_library_that_does_not_work_is_named_with_its_last_line():
    with start_loopback("nosuch", 2) as probe:
        (finding,) = look_at_loopback(probe, "nosuch", 2, "install it")
    assert (finding.state, finding.remedy) == ("mend", "install it")
    assert "nosuch" in finding.found.lower()
    assert "\n" not in finding.found


def test_one_rank_sums_alone():
    with pytest.raises(Exception, match=r"(?i)nosuch"):
        add_up("nosuch", 1)


def test_a_process_that_hangs_is_given_up_and_ended():
    script = "import os, subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    began = time.monotonic()
    with Probe(["-c", script + "import time; time.sleep(600)"], limit_s=1.0) as probe:
        assert probe.failure() == "no answer within 1 s"
        group = probe.process_id
    assert time.monotonic() - began < 60
    with pytest.raises(ProcessLookupError):
        _wait_for_the_end_of(group)


def _wait_for_the_end_of(group):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:  # killed children are reaped by init, soon
        os.killpg(group, 0)
        time.sleep(0.02)


def test_a_process_that_is_killed_says_by_what():
    with Probe(["-c", "import os; os.kill(os.getpid(), 9)"]) as probe:
        assert probe.failure() == "killed by signal 9"


def test_packages_that_do_not_import_are_named():
    with start_import(["json", "csv"]) as probe:
        (finding,) = look_at_imports(probe, ["json", "csv"])
    assert (finding.state, finding.found) == ("ok", "json, csv")
    with start_import(["json", "no_such_package"]) as probe:
        (finding,) = look_at_imports(probe, ["json", "no_such_package"])
    assert (finding.state, finding.found) == ("mend", "ModuleNotFoundError: No module named 'no_such_package'")
