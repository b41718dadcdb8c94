"""Processes that others shape: forged marks, environments without end, names that look like more.

Those of a second user cost the host its processes, and the daemon next to nothing.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from geosched.workers.host import marks, procfs
from geosched.workers.host.cgroups import TREE, Containment
from geosched.workers.host.marks import MarkReader
from geosched.workers.host.process_tree import ProcessLook, RunTree, end_instance, end_trees
from support.held_back import HOLDS_BACK, holding_back, wait_until_held_back
from support.second_user import SECOND_USER, command_as, needs_two_users
from support.wait import wait_for

MARK = f"test-hostile-{os.getpid()}"
MARKS = {procfs.INSTANCE_VARIABLE: MARK, procfs.RUN_ID_VARIABLE: "r"}
LEAST = {"PATH": os.defpath}
#: One variable may have 128 KiB (fact P12), all of them 2 MiB.
HUGE = {f"X{number:02}": "x" * 120_000 for number in range(12)}
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `sleep`, or another command, in a session of its own, and ends that."""
    started: list[subprocess.Popen[bytes]] = []

    def starter(
        environment: dict[str, str],
        *command: str,
        user: int | None = None,
        **how: Any,
    ) -> "subprocess.Popen[bytes]":
        words = command or ("sleep", "600")
        process = command_as(os.getuid() if user is None else user, *words, env=environment, **how)
        started.append(process)
        return process

    yield starter
    for process in started:
        for member in ProcessLook.take(MarkReader(())).led.get(process.pid, ()):
            os.kill(member, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def marked(*processes: "subprocess.Popen[bytes]", users: tuple[int, ...] = ()) -> dict[int, str]:
    with MarkReader((MARK,), users) as reader:
        return reader.marked([process.pid for process in processes])


def test_a_mark_in_front_of_an_environment_without_end_is_found(start: Start) -> None:
    assert marked(one := start(LEAST | MARKS | HUGE)) == {one.pid: "r"}


def test_a_mark_behind_the_names_of_a_thousand_apps_is_found(start: Start) -> None:
    """As a shell gives it to its children."""
    apps = {"GEOSCHED_APP_NAMES": "x" * 131_000}
    assert marked(one := start(LEAST | apps | MARKS)) == {one.pid: "r"}


def test_a_mark_beyond_the_bound_is_none(start: Start) -> None:
    assert marked(start(LEAST | HUGE | MARKS)) == {}


@needs_two_users
def test_a_mark_counts_only_in_processes_of_users_of_ours(start: Start) -> None:
    ours, theirs = start(LEAST | MARKS), start(LEAST | MARKS, user=SECOND_USER)
    assert marked(ours, theirs) == {ours.pid: "r"}
    assert marked(ours, theirs, users=(SECOND_USER,)) == {ours.pid: "r", theirs.pid: "r"}


@needs_two_users
def test_a_mark_with_the_id_of_a_run_of_another_user_is_none_of_it(start: Start) -> None:
    """A script has its instance's mark in its own environment."""
    forged = start(LEAST | MARKS, user=SECOND_USER)
    mine = RunTree(MARK, "r")
    with MarkReader((MARK,), (SECOND_USER,)) as reader:
        look = ProcessLook.take(reader)
        assert look.marked["r"] == {forged.pid}
        assert mine.members(look) == {}
    of_both = [mine, RunTree(MARK, "another", users=frozenset((SECOND_USER,)))]
    assert end_trees(of_both).gone == ["r", "another"]
    assert forged.poll() is None
    assert RunTree(MARK, "r", users=frozenset((SECOND_USER,))).members().keys() == {forged.pid}


@needs_two_users
def test_a_set_uid_program_is_its_callers(start: Start, tmp_path: Path) -> None:
    """Anybody may execute one, with any environment; and so may a script."""
    place = Path("/tmp") / f"gs-{os.getpid()}-setuid"
    place.mkdir(mode=0o755)
    try:
        program = Path(shutil.copy("/bin/sleep", place / "sleep"))
        program.chmod(0o4755)
        theirs = start(LEAST | MARKS, str(program), "600", user=SECOND_USER)
        wait_for(lambda: b"gs-" in Path(f"/proc/{theirs.pid}/cmdline").read_bytes())
        status = Path(f"/proc/{theirs.pid}/status").read_text()
        if f"Uid:\t{SECOND_USER}\t0\t" not in status:
            pytest.skip("/tmp is mounted nosuid")
        assert os.stat(f"/proc/{theirs.pid}").st_uid == 0
        assert marked(theirs) == {}
        assert marked(theirs, users=(SECOND_USER,)) == {theirs.pid: "r"}
    finally:
        shutil.rmtree(place)


@needs_two_users
def test_environments_of_strangers_take_no_memory_and_no_time(start: Start) -> None:
    for _ in range(20):
        start(LEAST | MARKS | HUGE, user=SECOND_USER)
    tracemalloc.start()
    try:
        with MarkReader((MARK,)) as reader:
            begun = time.monotonic()
            look = ProcessLook.take(reader)
            took = time.monotonic() - begun
        assert look.marked == {}
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
        assert took < 2.0
    finally:
        tracemalloc.stop()


def test_an_environment_that_hangs_costs_itself_and_no_other(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with holding_back(tmp_path) as file:
        bad = start(LEAST | MARKS, sys.executable, "-c", HOLDS_BACK, str(file), **PIPES)
        wait_until_held_back(bad)
        ours = [start(LEAST | MARKS), start(LEAST | MARKS)]
        pids = [ours[0].pid, bad.pid, ours[1].pid]
        begun = time.monotonic()
        with MarkReader((MARK,)) as reader:
            assert reader.marked(pids) == {one.pid: "r" for one in ours}
            first = time.monotonic() - begun
            assert reader.marked(pids) == {one.pid: "r" for one in ours}
            assert time.monotonic() - begun - first < first, "it is asked once"
        assert first < 10 * marks.READ_IDLE_SECONDS_MAX
    assert f"environment of process {bad.pid}: it hangs" in caplog.text


@needs_two_users
def test_a_user_of_many_that_hang_is_given_up_and_no_other(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "USER_IDLE_SECONDS_MAX", 2 * marks.READ_IDLE_SECONDS_MAX)
    other = start(LEAST | MARKS, user=SECOND_USER)
    with holding_back(tmp_path) as file:
        held = (LEAST | MARKS, sys.executable, "-c", HOLDS_BACK, str(file))
        bad = [start(*held, **PIPES) for _ in range(6)]
        for one in bad:
            wait_until_held_back(one)
        pids = [one.pid for one in (*bad, other)]
        with MarkReader((MARK,), (SECOND_USER,)) as reader:
            for _ in range(3):
                assert reader.marked(pids) == {other.pid: "r"}
    hung = caplog.text.count(": it hangs")
    assert 1 <= hung <= 2, "later looks cost nothing"
    assert f"environments of {6 - hung} processes of user {os.getuid()}: no" in caplog.text


def test_a_name_that_looks_like_the_rest_of_the_line_moves_no_field(start: Start) -> None:
    """A process names itself; parentheses, blanks and line ends are allowed."""
    named = "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'x) R 1 1\\n1 ('); print(flush=True)"
    process = start(LEAST, sys.executable, "-c", f"{named}; sys.stdin.read()", **PIPES)
    assert process.stdout is not None
    process.stdout.readline()
    assert b"x) R 1 1\n1 (" in Path(f"/proc/{process.pid}/stat").read_bytes()
    found = procfs.stat(process.pid)
    assert found is not None
    assert (found.ppid, found.session, found.threads) == (os.getpid(), process.pid, 1)
    assert procfs.real_user(process.pid) == os.getuid()


def test_a_reader_that_may_not_be_forked_is_done_without(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    one = start(LEAST | MARKS)
    monkeypatch.setattr(os, "fork", fails)
    assert marked(one) == {one.pid: "r"}


# --- by what was noted ------------------------------------------------------------------


def test_a_script_that_threw_its_marks_away_is_found_by_its_start(start: Start) -> None:
    # A shell that only waits would end by itself, and with 0, once its child is killed first.
    script = start(LEAST, "sh", "-c", "sleep 600 & exec sleep 600")
    wait_for(lambda: len(ProcessLook.take(MarkReader(())).led.get(script.pid, ())) == 2)
    known = procfs.identity(script.pid)
    assert known is not None
    assert RunTree(MARK, "r", script.pid, script_ticks=known.start_ticks - 1).members() == {}
    tree = RunTree(MARK, "r", script.pid, script_ticks=known.start_ticks)
    assert len(tree.members()) == 2
    wait_for(tree.kill)
    assert script.wait(5) == -signal.SIGKILL


def test_a_sweep_ends_what_a_noted_script_leads_while_that_lives(start: Start) -> None:
    """Later its pid may be that of another leader."""
    script = start(LEAST, "sh", "-c", "sleep 600 & wait")
    wait_for(lambda: len(ProcessLook.take(MarkReader(())).led.get(script.pid, ())) == 2)
    known = procfs.identity(script.pid)
    assert known is not None
    another = procfs.Identity(known.boot_id, known.pid, known.start_ticks + 1)

    def round_of(*scripts: procfs.Identity, just_lost: bool = False) -> set[int]:
        with MarkReader((MARK,)) as reader:
            look = ProcessLook.take(reader)
        return end_instance(look, Containment(TREE), scripts=scripts, just_lost=just_lost)

    assert round_of(another) == round_of(another, just_lost=True) == set()
    script.kill()
    script.wait()
    assert round_of(known) == set()
    assert len(round_of(known, just_lost=True)) == 1
    wait_for(lambda: not round_of(known, just_lost=True))
