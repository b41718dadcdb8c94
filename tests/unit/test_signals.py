"""The suite passes however it is started: what it starts has the usual signals."""

import signal
import subprocess
import sys

import pytest
from support.paths import TESTS

#: Ignores or blocks every signal that can be, then becomes the second program.
CARELESS = """
import os, signal, sys
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    if sys.argv[1] == "ignored":
        signal.signal(number, signal.SIG_IGN)
if sys.argv[1] == "blocked":
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[2:]])
"""
STARTS = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from support.signals import hand_down_the_usual
hand_down_the_usual()
subprocess.run(["cat", "/proc/self/status"], check=True)
"""


def ignored_and_blocked(*command: str) -> list[set[int]]:
    """The signals that a command says it was started with, but for the two that the C library
    keeps for itself (fact P28)."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    status = dict(line.split(":\t", 1) for line in done.stdout.splitlines())
    masks = int(status["SigIgn"], 16), int(status["SigBlk"], 16)
    return [{n for n in signal.valid_signals() if mask >> (n - 1) & 1} for mask in masks]


@pytest.mark.parametrize("before", ["ignored", "blocked", "neither"])
def test_what_is_started_ignores_and_blocks_nothing(before: str) -> None:
    careless = (sys.executable, "-c", CARELESS, before)
    assert ignored_and_blocked(*careless, STARTS, str(TESTS)) == [set(), set()]


def test_what_these_tests_start_does_neither() -> None:
    assert ignored_and_blocked("cat", "/proc/self/status") == [set(), set()]
