"""A preparation that is killed from outside: no process of it, and no lock, is in the way of the next."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from padless.data.prepare import prepare
from waiting import wait_until


@pytest.mark.slow
def test_a_killed_preparation_leaves_no_process_and_no_lock_so_the_same_call_goes_on(tmp_path, tokenizer):
    documents = tmp_path / "documents"
    documents.mkdir()
    for number in range(24):
        text = json.dumps({"text": f"{number} " + "It was a dull evening in the middle of the winter. " * 40})
        (documents / f"{number:02d}.jsonl").write_text(f"{text}\n" * 400)
    output = tmp_path / "output"
    script = (
        "import sys\nfrom padless.data.prepare import prepare\n"
        "prepare(*sys.argv[1:4], max_seq_len=(128,), block_tokens=256, fast=False, workers=2)\n"
    )
    words = [sys.executable, "-c", script, str(documents), str(output), str(tokenizer)]
    killed = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: list((output / "tokens").glob("0*.json")), 60)
        killed.kill()
        killed.wait()
        wait_until(lambda: not processes_of_session(killed.pid), 60)
    finally:
        for process in processes_of_session(killed.pid):
            os.kill(process, signal.SIGKILL)
    assert not (output / "manifest.json").exists(), "it was killed before it was done"
    manifest = prepare(
        documents,
        output,
        tokenizer,
        max_seq_len=(128,),
        block_tokens=256,
        fast=False,
        workers=2,
        console=Console(quiet=True),
    )
    assert manifest.documents["train"] + manifest.documents["val"] == 24 * 400


def processes_of_session(session):
    """Return the processes of a session that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            facts = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else []
        except OSError:
            continue
        if facts and int(facts[3]) == session and facts[0] != "Z":
            found.append(int(entry.name))
    return found
