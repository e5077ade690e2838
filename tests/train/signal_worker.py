"""Sits where a signal may find it. python ... deferred|elsewhere|stuck|forked|settled REPEAT_S"""

import ctypes
import os
import sys
import time

from padless.errors import Stopped
from padless.train.signals import StopSignals


def say(line: str) -> None:
    print(line, flush=True)


signals = StopSignals(repeat_s=float(sys.argv[2]))
signals.install()
try:
    if sys.argv[1] == "elsewhere":
        say("ready")
        time.sleep(60)
    if sys.argv[1] == "settled":
        signals.settle(2)
        say("ready")
        while True:
            time.sleep(0.05)
    if sys.argv[1] == "stuck":  # a second lock of the same mutex: a C call that no signal interrupts
        mutex = ctypes.create_string_buffer(64)
        lock = ctypes.CDLL(None).pthread_mutex_lock
        lock(mutex)
        say("ready")
        lock(mutex)
    if sys.argv[1] == "forked":
        child = os.fork()
        if child == 0:
            say(f"ready {os.getpid()}")
            while True:
                time.sleep(0.05)
        os.waitpid(child, 0)
        say(f"requested {signals.requested}")
    if sys.argv[1] == "deferred":
        with signals.deferred():
            say("ready")
            while signals.requested is None:
                time.sleep(0.02)
            say(f"requested {signals.requested}")
            if sys.stdin.readline().strip() == "go on":
                time.sleep(60)
        signals.raise_if_requested()
except Stopped as stopped:
    say(f"stopped: {stopped}")
    sys.exit(stopped.exit_code)
