"""As whom, where and within which limits a script runs; and what root does not start."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from geosched.ipc.messages.runs import Conditions
from geosched.workers.host import procfs
from geosched.workers.host.execution import become, credentials_of
from support.daemon import Daemon, entry, installation_for_everybody, lives, processes_marked
from support.wait import wait_for

LONG = 3600
NOBODY = 65534


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with installation_for_everybody() as installed:
        yield installed


def run(daemon: Daemon, body: str, **conditions: Any) -> None:
    script = {"command": [daemon.script("s", body)], "stop_grace": "300ms"}
    limits = conditions.pop("limits", {})
    env = conditions.pop("env", {})
    daemon.configure(scripts={"default": script | conditions})
    with daemon.config.open("a") as file:
        for table, content in (("limits", limits), ("env", env)):
            file.write(f"[scripts.default.{table}]\n")
            file.writelines(f'{key} = "{value}"\n' for key, value in content.items())
    daemon.config.write_text(daemon.config.read_text().replace('"#', "").replace('#"', ""))
    daemon.send([entry("a", -1, LONG)])
    daemon.start()


def said(daemon: Daemon) -> list[str]:
    daemon.wait_status("a", "FINISHED")
    return daemon.ctl("logs", "a").stdout.splitlines()


def test_a_script_is_whom_and_where_it_was_told_to_be(daemon: Daemon):
    run(
        daemon,
        'id -u; id -g; umask; pwd; nice; cat /proc/self/oom_score_adj; echo "$HOME $USER $COLOUR"',
        user="nobody",
        cwd="/tmp",
        umask="027",
        nice=5,
        oom_score_adj=500,
        env={"COLOUR": "blue"},
    )
    assert said(daemon) == [
        str(NOBODY),
        str(NOBODY),
        "0027",
        "/tmp",
        "5",
        "500",
        "/nonexistent nobody blue",
    ]


def test_a_number_does_for_a_user_and_a_group_of_its_own_can_be_had(daemon: Daemon):
    run(daemon, "id -u; id -g; echo $HOME", user="65534", group="0")
    assert said(daemon) == [str(NOBODY), "0", "/nonexistent"]


def test_a_script_of_another_user_can_write_to_its_own_output_by_name(daemon: Daemon):
    run(daemon, "echo by name > /dev/stdout", user="nobody")
    assert said(daemon) == ["by name"]


def test_a_script_of_another_user_can_say_how_it_is(daemon: Daemon):
    notify = daemon.root / "notify.py"
    notify.write_text(
        "import os, socket, time\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.sendto(b'READY=1\\nSTATUS=well', os.environ['NOTIFY_SOCKET'])\n"
        "time.sleep(600)\n"
    )
    notify.chmod(0o644)
    run(daemon, f"exec python3 {notify}", user="nobody")
    daemon.wait_phase("a", "running")
    wait_for(lambda: daemon.action("a")["run"]["statusText"] == "well", seconds=20)


def test_what_another_users_program_says_counts_although_it_is_gone(daemon: Daemon):
    notify = daemon.root / "notify.py"
    notify.write_text(
        "import os, socket\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
        "s.sendto(b'STATUS=well', os.environ['NOTIFY_SOCKET'])\n"
    )
    notify.chmod(0o644)
    go = daemon.root / "go"
    waits = f"note began; until [ -e {go} ]; do sleep 0.1; done"
    run(daemon, f"{waits}; python3 {notify}; note told; sleep 600", user="nobody")
    wait_for(lambda: daemon.notes("began"))
    worker = daemon.wait_phase("a", "running")["run"]["workerPid"]
    os.kill(worker, signal.SIGSTOP)
    try:
        go.touch()
        wait_for(lambda: daemon.notes("told"))
    finally:
        os.kill(worker, signal.SIGCONT)
    wait_for(lambda: daemon.action("a")["run"]["statusText"] == "well", seconds=20)


def test_a_variable_of_the_script_comes_before_that_of_its_user(daemon: Daemon):
    run(daemon, 'echo "$HOME $USER"', user="nobody", env={"HOME": "/srv"})
    assert said(daemon) == ["/srv nobody"]


def test_a_program_is_found_from_the_root_wherever_its_script_is_to_be(daemon: Daemon):
    relative = str(daemon.root).removeprefix("/")
    run(daemon, "pwd", command=["s"], cwd="/usr", env={"PATH": f"{relative}:/usr/bin:/bin"})
    assert said(daemon) == ["/usr"]


def test_a_low_limit_of_descriptors_is_in_the_way_of_no_other_setting(daemon: Daemon):
    command = ["/bin/cat", "/proc/self/oom_score_adj"]
    run(daemon, "", command=command, limits={"open_files": "#4#"}, oom_score_adj=300)
    assert said(daemon) == ["300"]


def test_who_is_that_user_already_needs_no_rights_to_become_it(daemon: Daemon):
    nobody = credentials_of(Conditions(user="nobody"))
    assert nobody is not None
    pid = os.fork()
    if pid == 0:
        try:
            become(nobody)
            become(nobody)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def test_limits_are_those_of_the_script(daemon: Daemon):
    limits = {"open_files": "#77#", "processes": "#66#", "file_size": "8KiB", "cpu": "9s"}
    names = "Max (open files|processes|file size|cpu time)"
    run(daemon, f"grep -E '{names}' /proc/self/limits", user="nobody", limits=limits)
    shown = {line[:26].strip(): line[26:].split()[:2] for line in said(daemon)}
    assert shown == {
        "Max open files": ["77", "77"],
        "Max processes": ["66", "66"],
        "Max file size": ["8192", "8192"],
        "Max cpu time": ["9", "10"],
    }


@pytest.mark.parametrize(
    ("body", "limits", "name"),
    [
        ("while :; do :; done", {"cpu": "1s"}, "SIGXCPU"),
        ("trap '' XCPU; while :; do :; done", {"cpu": "1s"}, "SIGKILL"),
        ("exec head -c 100000 /dev/zero > /tmp/geosched-$$", {"file_size": "8KiB"}, "SIGXFSZ"),
    ],
)
def test_a_script_beyond_its_limit_is_ended_by_the_kernel(
    daemon: Daemon, body: str, limits: dict[str, str], name: str
):
    run(daemon, body.replace("/tmp/", f"{daemon.root}/"), limits=limits)
    failed = daemon.wait_status("a", "FAILED")
    assert (failed["reason"], failed["run"]["signal"]) == ("signal", name)


def test_more_memory_than_its_limit_is_not_to_be_had(daemon: Daemon):
    run(daemon, "python3 -c 'bytearray(500_000_000)'", limits={"address_space": "200MiB"})
    assert daemon.wait_status("a", "FAILED")["reason"] == "exit-code"


@pytest.mark.parametrize(
    ("conditions", "detail"),
    [
        ({"user": "no-such-user"}, "user: there is no user 'no-such-user'"),
        ({"group": "no-such-group"}, "group: there is no group 'no-such-group'"),
        ({"cwd": "/no/such/place"}, "cwd: No such file or directory"),
    ],
)
def test_what_cannot_be_had_fails_the_run_and_says_which_key(
    daemon: Daemon, conditions: dict[str, str], detail: str
):
    run(daemon, "true", **conditions)
    failed = daemon.wait_status("a", "FAILED")
    assert failed["reason"] == "cannot-start"
    assert detail in failed["detail"]
    assert daemon.terminate() == 0
    assert refused_at(daemon, "--check", seconds=10)
    (key,) = conditions
    daemon.wait_log(f"scripts.default.{key}: ")


def test_a_script_that_its_user_may_not_execute_says_so(daemon: Daemon):
    (daemon.root / "private").mkdir(mode=0o700)
    hidden = daemon.script("private/s", "true")
    run(daemon, "", command=[hidden], user="nobody")
    failed = daemon.wait_status("a", "FAILED")
    assert failed["reason"] == "cannot-start"
    assert "private cannot be entered by user nobody" in failed["detail"]


def test_a_user_with_too_many_processes_gets_no_other(daemon: Daemon):
    with ExitStack() as busy:
        for _ in range(3):
            sleeper = subprocess.Popen(["sleep", "600"], user=NOBODY, extra_groups=[])
            busy.callback(sleeper.wait)
            busy.callback(sleeper.kill)
        run(daemon, "true", user="nobody", limits={"processes": "#1#"})
        failed = daemon.wait_status("a", "FAILED")
    assert failed["reason"] == "cannot-start"
    assert "more processes than limits.processes" in failed["detail"]


def test_a_deaf_script_of_another_user_is_stopped_like_any(daemon: Daemon):
    run(daemon, "trap '' TERM; note began; sleep 600 & wait; sleep 600", user="nobody")
    wait_for(lambda: daemon.notes("began"))
    pid = daemon.wait_phase("a", "running")["run"]["scriptPid"]
    assert daemon.ctl("stop", "a").returncode == 0
    assert not lives(pid)
    assert not daemon.left_of("a")
    # By its own worker, in good order: a worker that is given up knows of no signal.
    assert daemon.action("a")["run"]["signal"] == "SIGKILL"


def test_a_script_that_became_another_user_dies_with_its_worker_all_the_same(daemon: Daemon):
    run(daemon, "note began; exec sleep 600", user="nobody")
    wait_for(lambda: daemon.notes("began"))
    shown = daemon.wait_phase("a", "running")["run"]
    assert daemon.process is not None
    # With its supervisor stopped nobody but the kernel ends it.
    daemon.process.send_signal(signal.SIGSTOP)
    os.kill(shown["workerPid"], signal.SIGKILL)
    wait_for(lambda: not lives(shown["scriptPid"]))


def test_what_another_user_left_behind_is_swept_like_anything(daemon: Daemon):
    run(daemon, "setsid sleep 600 & note began; sleep 600", user="nobody")
    wait_for(lambda: daemon.notes("began"))
    shown = daemon.wait_phase("a", "running")["run"]
    mark = f"GEOSCHED_RUN_ID={shown['runId']}\0"
    zygote = procfs.stat(shown["workerPid"]).ppid
    # None of those that could end it is spared: only the next start is left.
    for pid in (daemon.process.pid, zygote):
        os.kill(pid, signal.SIGSTOP)
    for pid in (shown["workerPid"], zygote):
        os.kill(pid, signal.SIGKILL)
    daemon.kill()
    assert processes_marked(mark)
    daemon.start()
    wait_for(lambda: len(daemon.notes("began")) == 2)
    assert not processes_marked(mark)


def refused_at(daemon: Daemon, *arguments: str, seconds: float) -> bool:
    """Whether a daemon that is started like this leaves with exit code 2; the log holds
    only what it said."""
    daemon.stderr.write_text("")
    daemon.start(*arguments, wait=False)
    assert daemon.process is not None
    return daemon.process.wait(seconds) == 2


@pytest.mark.parametrize("what", ["script", "configuration", "directory"])
def test_root_refuses_what_others_can_write(daemon: Daemon, what: str):
    run(daemon, "true")
    daemon.wait_status("a", "FINISHED")
    writable = {
        "script": daemon.root / "s",
        "configuration": daemon.config,
        "directory": daemon.root,
    }[what]
    writable.chmod(0o777)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    refused = f"{writable} is writable by everybody (mode 0777)"
    wait_for(lambda: "Not reloaded" in daemon.log_text() and refused in daemon.log_text())
    daemon.send([entry("a", -1, LONG), entry("b", -1, LONG)])
    if what == "script":  # in such a directory the actions are read no more either
        assert refused in daemon.wait_status("b", "FAILED")["detail"]
    assert daemon.terminate() == 0
    for arguments in ((), ("--check",)):
        assert refused_at(daemon, *arguments, seconds=20)
        daemon.wait_log(refused)
