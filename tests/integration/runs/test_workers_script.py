"""One run after another in real workers: how scripts start, what they see, how they end."""

import json
import os
import platform
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.ipc.messages.runs import EndCause, Ended, StopReason
from geosched.workers.runfiles.output import read_output
from support.wait import wait_for
from support.workers import Host, host

#: The system call that ends one thread.
SYS_EXIT = {"x86_64": 60, "aarch64": 93}


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    with host() as opened:
        yield opened


def python(source: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", source)


# --- ends of themselves --------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 7, 255])
def test_the_exit_code_is_the_scripts_own(shared: Host, code: int):
    result = shared.outcome(shared.order(shared.script(f"exit {code}")))
    assert (result.cause, result.exit_code, result.signal) == (EndCause.EXITED, code, None)
    assert result.stop_reason is None
    assert result.script_pid


def test_a_signal_that_is_not_ours_is_the_scripts_own_end(shared: Host):
    result = shared.outcome(shared.order(shared.script("kill -ABRT $$")))
    assert (result.cause, result.exit_code) == (EndCause.EXITED, None)
    assert result.signal == signal.SIGABRT


def test_a_script_that_closes_its_output_goes_on(shared: Host):
    order = shared.order(shared.script("exec >&- 2>&-; sleep 0.3; exit 5"))
    assert shared.outcome(order).exit_code == 5


def test_what_a_script_left_behind_is_ended_before_its_end_is_told(shared: Host):
    body = 'setsid sh -c "sleep 600 & echo $! > $HERE/left" >/dev/null 2>&1 </dev/null &\n'
    body += "while ! [ -s $HERE/left ]; do sleep 0.01; done; exit 3"
    order = shared.order(shared.script(body))
    result = shared.outcome(order)
    assert (result.cause, result.exit_code) == (EndCause.EXITED, 3)
    assert not shared.members(order)


def test_what_was_left_behind_has_the_stop_signal_and_the_grace(shared: Host):
    left = shared.script(
        "trap 'echo asked > $HERE/asked; exit' TERM; : > $HERE/up; while :; do sleep 0.02; done"
    )
    order = shared.order(shared.script(f"{left} & while ! [ -e $HERE/up ]; do :; done; exit 0"))
    assert shared.outcome(order).exit_code == 0
    assert (shared.dir / "asked").read_text() == "asked\n"
    assert not shared.members(order)


def test_a_descendant_that_left_session_group_and_parent_is_ended(shared: Host):
    source = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open(os.environ["HERE"] + "/far", "w").write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
while not os.path.exists(os.environ["HERE"] + "/far"): time.sleep(0.01)
"""
    order = shared.order(python(source), stop_grace_seconds=0.2)
    assert shared.outcome(order).exit_code == 0
    wait_for(lambda: not Path(f"/proc/{(shared.dir / 'far').read_text()}").exists())


def test_a_descendant_that_also_removed_its_environment_is_ended(shared: Host):
    body = "setsid env -i sh -c 'echo $$ > $0; trap : TERM; while :; do sleep 0.1; done' "
    body += "$HERE/bare </dev/null >/dev/null 2>&1 &\n"
    body += "while ! [ -s $HERE/bare ]; do sleep 0.01; done"
    order = shared.order(shared.script(body), stop_grace_seconds=0.2)
    assert shared.outcome(order).exit_code == 0
    assert not Path(f"/proc/{(shared.dir / 'bare').read_text().strip()}").exists()


# --- cannot be started ---------------------------------------------------------------------


def cannot_start(host: Host, *command: str, **changes: object) -> str:
    result = host.outcome(host.order(command, **changes))
    assert (result.cause, result.exit_code, result.signal) == (EndCause.CANNOT_START, None, None)
    assert result.script_pid is None
    assert result.detail.startswith("cannot start")
    return result.detail


def test_a_missing_file_is_named(shared: Host):
    assert cannot_start(shared, "/nowhere/at-all") == "cannot start /nowhere/at-all: no such file"


def test_an_interpreter_that_nobody_writes_to_holds_no_armed_worker(shared: Host):
    fifo = shared.dir / "fifo"
    os.mkfifo(fifo, 0o755)
    script = shared.script("exit 0", interpreter=str(fifo))
    soon_us = time.time_ns() // 1000 + 500_000
    assert "not a regular file" in cannot_start(shared, script, not_before_us=soon_us)


def test_a_name_that_is_not_in_the_path_is_named(shared: Host):
    assert "no-such-command-anywhere" in cannot_start(shared, "no-such-command-anywhere")


def test_a_file_that_is_not_executable_says_so(shared: Host):
    assert "not executable" in cannot_start(shared, shared.script("exit 0", mode=0o644))


def test_a_directory_says_so(shared: Host):
    assert "is a directory" in cannot_start(shared, "/usr")


def test_a_missing_interpreter_says_so(shared: Host):
    script = shared.script("exit 0", interpreter="/no/such/interpreter")
    assert "interpreter" in cannot_start(shared, script)


def test_a_file_that_is_no_program_says_so(shared: Host):
    path = shared.dir / "data"
    path.write_text("just text\n")
    path.chmod(0o755)
    assert "no executable" in cannot_start(shared, str(path))


def test_too_long_arguments_say_so(shared: Host):
    assert "too long" in cannot_start(shared, "/bin/true", "x" * 200_000)


def test_an_argument_with_a_nul_says_so(shared: Host):
    assert "NUL" in cannot_start(shared, "/bin/true", "a\0b")


def test_an_unusable_environment_says_so(shared: Host):
    assert "BAD=NAME" in cannot_start(shared, "/bin/true", environment={"BAD=NAME": ""})


def test_a_thousand_long_app_names_fit_the_order_of_a_run(shared: Host):
    long = "é" * 500_000
    assert "too long" in cannot_start(shared, "/bin/true", environment={"APPS": long})


# --- what a script sees --------------------------------------------------------------------


def test_standard_input_is_the_document_and_then_its_end(shared: Host):
    document = json.dumps({"id": "a", "pad": "x" * 100_000}).encode() + b"\n"
    order = shared.order(shared.script('cat > "$HERE/input"'), input=document)
    assert shared.outcome(order).exit_code == 0
    assert (shared.dir / "input").read_bytes() == document


def test_the_environment_is_exactly_what_was_ordered_and_the_notify_socket(shared: Host):
    order = shared.order(("/usr/bin/env", "-0"), watchdog_seconds=30)
    assert shared.outcome(order).exit_code == 0
    seen = dict(part.split("=", 1) for part in shared.output(order).split("\0") if part)
    assert Path(seen.pop("NOTIFY_SOCKET")).parent == shared.runtime.notify
    assert seen.pop("WATCHDOG_USEC") == "30000000"
    assert seen == order.environment


def test_bare_names_are_found_in_the_path_of_the_script(shared: Host):
    assert shared.outcome(shared.order(("true",))).exit_code == 0


def test_no_descriptor_is_inherited_but_the_three(shared: Host):
    source = 'import os; print([os.readlink(f"/proc/self/fd/{n}") for n in '
    source += (
        'sorted(map(int, os.listdir("/proc/self/fd"))) if os.path.exists(f"/proc/self/fd/{n}")'
    )
    source += " or n < 3])"
    order = shared.order(python(source))
    assert shared.outcome(order).exit_code == 0
    seen = json.loads(shared.output(order).replace("'", '"'))
    assert len(seen) == 3
    assert seen[0].startswith("/memfd:")
    assert seen[1] == seen[2]
    assert seen[1].startswith("pipe:")


def test_signals_session_directory_and_umask_are_the_defaults(shared: Host):
    source = """
import os, signal
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def named(mask):  # without 32 and 33, which belong to the C library
    return {n for n in signal.valid_signals() if int(status[mask], 16) & 1 << n - 1}
assert named("SigBlk") == set()
assert named("SigIgn") <= {signal.SIGPIPE, signal.SIGXFSZ}  # Python itself ignores these
assert os.getsid(0) == os.getpgrp() == os.getpid()
assert os.getcwd() == "/"
assert status["Umask"].strip() == "0022"
"""
    order = shared.order(python(source))
    assert shared.outcome(order).exit_code == 0, shared.output(order)


# --- output --------------------------------------------------------------------------------


def test_output_and_error_are_kept_in_order(shared: Host):
    order = shared.order(shared.script("echo one; echo two >&2; echo three"))
    shared.outcome(order)
    assert shared.output(order) == "one\ntwo\nthree\n"


def test_large_output_keeps_its_head_and_tail_within_the_limit(shared: Host):
    order = shared.order(("seq", "1", "300000"), output_bytes_max=64 * 1024)
    assert shared.outcome(order).exit_code == 0
    kept = shared.output(order)
    assert len(kept) <= 64 * 1024
    assert kept.startswith("1\n2\n3\n")
    assert kept.endswith("\n299999\n300000\n")
    assert kept.count(" bytes cut]\n") == 1


def test_a_log_directory_that_is_gone_costs_output_and_no_run(shared: Host):
    order = shared.order(
        shared.script("echo lost; sleep 0.5; exit 4"), output_path="/nowhere/at/all.log"
    )
    name = shared.worker("worker-no-log")
    shared.run(name, order)
    assert shared.heartbeat(name, lambda beat: beat.output_lost_bytes).output_lost_bytes == 5
    assert shared.result(name).exit_code == 4


def test_a_full_disk_costs_output_and_no_run(shared: Host):
    order = shared.order(shared.script("echo lost; exit 4"), output_path="/dev/full")
    result = shared.outcome(order)
    assert (result.cause, result.exit_code) == (EndCause.EXITED, 4)


# --- stops ---------------------------------------------------------------------------------


def test_a_stop_ends_the_whole_tree_and_tells_its_reason(shared: Host):
    order = shared.order(shared.script("sleep 600 & sleep 600 & wait"))
    name = shared.worker("worker-stop")
    shared.run(name, order)
    shared.wait(lambda: len(shared.members(order)) == 3)
    shared.stop(name, order, StopReason.WINDOW_OVER)
    result = shared.result(name)
    assert (result.cause, result.stop_reason) == (EndCause.STOPPED, StopReason.WINDOW_OVER)
    assert result.signal == signal.SIGTERM
    assert not shared.members(order)


def test_a_script_may_take_its_grace_and_choose_its_exit_code(shared: Host):
    body = "trap 'sleep 0.3; exit 9' TERM; : > $HERE/trap; while :; do sleep 0.02; done"
    order = shared.order(shared.script(body))
    name = shared.worker("worker-graceful")
    shared.run(name, order)
    wait_for((shared.dir / "trap").exists)
    shared.stop(name, order)
    result = shared.result(name)
    assert (result.cause, result.exit_code) == (EndCause.STOPPED, 9)


def test_a_script_that_ignores_the_stop_signal_is_killed_after_its_grace(shared: Host):
    body = "trap '' TERM; : > $HERE/deaf; while :; do sleep 0.02; done"
    order = shared.order(shared.script(body), stop_grace_seconds=0.3)
    name = shared.worker("worker-deaf")
    shared.run(name, order)
    wait_for((shared.dir / "deaf").exists)
    shared.stop(name, order)
    result = shared.result(name, seconds=5)
    assert (result.cause, result.signal) == (EndCause.STOPPED, signal.SIGKILL)
    assert not shared.members(order)


def test_a_script_that_stopped_itself_takes_the_stop_signal(shared: Host):
    order = shared.order(shared.script("kill -STOP $$; sleep 600"), stop_grace_seconds=30)
    name = shared.worker("worker-frozen")
    started = shared.run(name, order)
    wait_for(lambda: ") T " in Path(f"/proc/{started.script_pid}/stat").read_text())
    shared.stop(name, order)
    assert shared.result(name, seconds=5).signal == signal.SIGTERM


@pytest.mark.skipif(platform.machine() not in SYS_EXIT, reason="its number is not known here")
def test_a_script_whose_first_thread_ended_lives_until_all_its_threads_are_gone(shared: Host):
    source = f"""
import ctypes, os, signal, threading, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
threading.Thread(target=time.sleep, args=(600,)).start()
open(os.environ["HERE"] + "/threads", "w").close()
ctypes.CDLL(None).syscall({SYS_EXIT.get(platform.machine())}, 0)
"""
    order = shared.order((sys.executable, "-c", source), stop_grace_seconds=0.2)
    name = shared.worker("worker-threads")
    started = shared.run(name, order)
    wait_for((shared.dir / "threads").exists)
    wait_for(lambda: ") Z " in Path(f"/proc/{started.script_pid}/stat").read_text())
    assert not shared.said(name, Ended)
    shared.stop(name, order)
    result = shared.result(name, seconds=5)
    assert (result.cause, result.signal) == (EndCause.STOPPED, signal.SIGKILL)


def test_the_stop_signal_is_the_configured_one(shared: Host):
    body = "trap 'exit 12' USR1; : > $HERE/usr; while :; do sleep 0.02; done"
    order = shared.order(shared.script(body), stop_signal=int(signal.SIGUSR1))
    name = shared.worker("worker-usr1")
    shared.run(name, order)
    wait_for((shared.dir / "usr").exists)
    shared.stop(name, order)
    assert shared.result(name).exit_code == 12


@pytest.mark.parametrize(
    ("first", "later", "told"),
    [
        (StopReason.WITHDRAWN, StopReason.WINDOW_OVER, StopReason.WITHDRAWN),
        (StopReason.WINDOW_OVER, StopReason.SHUTDOWN, StopReason.WINDOW_OVER),
        (StopReason.CHANGED, StopReason.OPERATOR, StopReason.OPERATOR),
        (StopReason.SHUTDOWN, StopReason.WINDOW_OVER, StopReason.SHUTDOWN),
    ],
)
def test_the_first_reason_stays_but_changed_is_overtaken(
    shared: Host, first: StopReason, later: StopReason, told: StopReason
):
    body = "trap '' TERM; : > $HERE/up; while :; do sleep 0.02; done"
    order = shared.order(shared.script(body), stop_grace_seconds=0.3)
    name = shared.worker(f"worker-{first}-{later}")
    shared.run(name, order)
    shared.stop(name, order, first)
    shared.stop(name, order, later)
    assert shared.result(name).stop_reason is told


def test_a_stop_after_the_script_ended_of_itself_does_not_change_how_it_ended(shared: Host):
    body = "(trap '' TERM; : > $HERE/stays; while :; do sleep 0.02; done) & \n"
    body += "while ! [ -e $HERE/stays ]; do sleep 0.01; done; exit 6"
    order = shared.order(shared.script(body), stop_grace_seconds=1.0)
    name = shared.worker("worker-late-stop")
    started = shared.run(name, order)
    wait_for(lambda: ") Z " in Path(f"/proc/{started.script_pid}/stat").read_text())
    shared.stop(name, order)
    result = shared.result(name)
    assert (result.cause, result.exit_code, result.stop_reason) == (EndCause.EXITED, 6, None)


def test_an_end_that_the_worker_had_not_seen_yet_comes_before_the_stop(shared: Host):
    order = shared.order(shared.script("while ! [ -e $HERE/go ]; do sleep 0.01; done; exit 6"))
    name = shared.worker("worker-race")
    started = shared.run(name, order)
    worker = shared.forked[name][0].pid
    os.kill(worker, signal.SIGSTOP)
    (shared.dir / "go").touch()
    wait_for(lambda: ") Z " in Path(f"/proc/{started.script_pid}/stat").read_text())
    shared.stop(name, order)
    os.kill(worker, signal.SIGCONT)
    result = shared.result(name)
    assert (result.cause, result.exit_code, result.stop_reason) == (EndCause.EXITED, 6, None)


def test_what_was_left_behind_and_ignores_the_stop_signal_is_gone_when_the_end_is_told(
    shared: Host,
):
    body = "(trap '' TERM; : > $HERE/deaf-left; while :; do sleep 0.02; done) &\n"
    body += "while ! [ -e $HERE/deaf-left ]; do sleep 0.01; done; exit 0"
    order = shared.order(shared.script(body), stop_grace_seconds=0.3)
    name = shared.worker("worker-deaf-left")
    shared.run(name, order)
    shared.result(name)
    assert not shared.members(order)


# --- notifications -------------------------------------------------------------------------

SAY = """
import os, socket, sys, time
def say(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])
"""


def test_a_status_comes_with_the_heartbeats_and_the_result(shared: Host):
    source = SAY + r'say("READY=1\nSTATUS=doing \x1b[31m fine"); time.sleep(0.6)'
    name = shared.worker("worker-status")
    shared.run(name, shared.order(python(source)))
    assert shared.heartbeat(name, lambda beat: beat.status_text).status_text == "doing  [31m fine"
    assert shared.result(name).status_text == "doing  [31m fine"


def test_what_is_said_just_before_the_end_is_not_lost(shared: Host):
    result = shared.outcome(shared.order(python(SAY + 'say("STATUS=bye")')))
    assert result.status_text == "bye"


def test_a_barrier_is_acknowledged_by_closing_its_descriptor(shared: Host):
    source = (
        SAY
        + """
reader, writer = os.pipe()
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ["NOTIFY_SOCKET"])
socket.send_fds(s, [b"BARRIER=1"], [writer])
os.close(writer)
sys.exit(0 if os.read(reader, 1) == b"" else 1)
"""
    )
    assert shared.outcome(shared.order(python(source))).exit_code == 0


def test_a_stranger_is_not_heard(shared: Host):
    source = SAY + 'open(os.environ["HERE"] + "/address", "w").write(os.environ["NOTIFY_SOCKET"])\n'
    source += 'time.sleep(0.5); say("STATUS=mine"); time.sleep(0.5)'
    name = shared.worker("worker-stranger")
    shared.run(name, shared.order(python(source)))
    address = shared.dir / "address"
    wait_for(lambda: address.exists() and address.read_text())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"READY=1\nSTATUS=not yours", address.read_text())
    result = shared.result(name)
    assert result.status_text == "mine"
    texts = {m.status_text for who, m in shared.heard if who == name and hasattr(m, "ready")}
    assert "not yours" not in texts


def test_a_missed_watchdog_ends_the_run(shared: Host):
    order = shared.order(shared.script("sleep 600"), watchdog_seconds=0.4)
    result = shared.outcome(order)
    assert (result.cause, result.signal) == (EndCause.WATCHDOG, signal.SIGTERM)
    assert "WATCHDOG=1" in result.detail


def test_a_fed_watchdog_lets_the_run_live(shared: Host):
    source = SAY + 'for _ in range(12): say("WATCHDOG=1"); time.sleep(0.1)'
    order = shared.order(python(source), watchdog_seconds=0.5)
    assert shared.outcome(order).cause is EndCause.EXITED


def test_the_time_a_worker_was_stopped_does_not_count_against_its_script(shared: Host):
    source = SAY + "end = time.monotonic() + 4\n"
    source += 'while time.monotonic() < end: say("WATCHDOG=1"); time.sleep(0.2)'
    order = shared.order(python(source), watchdog_seconds=1.5)
    name = shared.worker("worker-suspended")
    started = shared.run(name, order)
    pids = (shared.forked[name][0].pid, started.script_pid)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2.5)  # longer than the watchdog: that is the point
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    assert shared.result(name).cause is EndCause.EXITED
    assert len(shared.said(name, Ended)) >= 1


def test_the_log_can_be_followed_while_the_run_writes_and_it_is_cut(shared: Host):
    order = shared.order(("seq", "1", "400000"), output_bytes_max=16 * 1024)
    name = shared.worker("worker-followed")
    shared.send(name, order)
    path = Path(order.output_path)
    wait_for(path.exists)
    seen, offset = b"", 0
    while not (ended := shared.said(name, Ended)) or seen[-7:] != b"400000\n":
        shared.hear()
        chunk = read_output(path, offset, 3000)
        offset = chunk.offset + len(chunk.data)
        seen += chunk.data
        assert not ended or chunk.data
    # Whole numbers only ever grow, whatever was cut between them.
    parts = re.split(rb"\n\[geosched: \d+ bytes cut\]\n", seen)
    numbers = [int(n) for part in parts for n in part.split(b"\n")[1:-1]]
    assert numbers == sorted(set(numbers))
