"""A script that runs as somebody else is ended like any other, whoever of its keepers dies; and
a daemon that is not root says beforehand what it cannot give."""

import json
import os
import resource
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from geosched.ipc.messages.runs import Conditions, Limits, Run
from geosched.supervisor.config.settings import load
from geosched.supervisor.startup import preflight
from geosched.workers.runs.launch import CannotStartError, credentials_of, start
from support.daemon import Daemon, entry, installation_for_everybody, lives
from support.processes import zygote
from support.wait import wait_for

LONG = 3600
NOBODY = 65534
#: SPEC S17: so long after the daemon nothing of its runs is left; and a loaded machine.
NOTHING_LEFT_SECONDS = 5.0 + 5.0


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with installation_for_everybody() as installed:
        yield installed


def run_as_nobody(daemon: Daemon, body: str, *arguments: str, **script: Any) -> None:
    command = {"command": [daemon.script("s", body)], "user": "nobody", "stop_grace": "300ms"}
    daemon.configure(scripts={"default": command})
    with daemon.config.open("a") as file:
        for table, content in script.items():
            file.write(f"[scripts.default.{table}]\n")
            file.writelines(f"{key} = {json.dumps(value)}\n" for key, value in content.items())
    daemon.send([entry("a", -1, LONG)])
    daemon.start(*arguments)


def running(daemon: Daemon) -> dict[str, Any]:
    """Its script has begun, and the daemon knows of it."""
    wait_for(lambda: daemon.notes("began"))
    return daemon.wait_phase("a", "running")["run"]


def test_no_group_of_the_daemon_stays_with_a_script_of_another_user(daemon: Daemon):
    own = os.getgroups()
    os.setgroups([*own, 54321])
    try:
        run_as_nobody(daemon, "id -G")
    finally:
        os.setgroups(own)
    daemon.wait_status("a", "FINISHED")
    said = {int(group) for group in daemon.ctl("logs", "a").stdout.split()}
    assert said == {*os.getgrouplist("nobody", NOBODY)}


def test_no_process_can_be_made_beyond_the_limit_of_its_user(daemon: Daemon):
    body = "(note child) || note refused"
    run_as_nobody(daemon, body, limits={"processes": 1})
    failed = daemon.wait_status("a", "FAILED")
    assert not daemon.notes("child")
    # Where that user has other processes on this host, not even the script can begin.
    said = daemon.ctl("logs", "a").stdout + failed["detail"]
    assert "fork" in said or "limits.processes" in said


def test_nothing_of_another_users_script_is_left_when_the_daemon_is_gone(daemon: Daemon):
    deaf = "trap '' TERM; setsid sleep 600 & note began; sleep 600; sleep 600"
    run_as_nobody(daemon, deaf)
    script = running(daemon)["scriptPid"]
    wait_for(lambda: len(daemon.left_of("a")) >= 3, what="all that the script starts")
    family = daemon.left_of("a")
    assert script in family
    daemon.kill()
    wait_for(lambda: not any(map(lives, family)), seconds=NOTHING_LEFT_SECONDS)


def test_with_its_worker_and_the_zygote_gone_the_kernel_ends_it(daemon: Daemon):
    run_as_nobody(daemon, "note began; exec sleep 600")
    shown = running(daemon)
    assert daemon.process is not None
    first = zygote(daemon)
    daemon.process.send_signal(signal.SIGSTOP)
    os.kill(first, signal.SIGKILL)
    os.kill(shown["workerPid"], signal.SIGKILL)
    wait_for(lambda: not lives(shown["scriptPid"]))


def test_no_value_of_its_variables_is_ever_logged(daemon: Daemon):
    secret = "hunter2"
    body = 'note began; [ "$PASSWORD" = hunter2 ] && note knows; sleep 600'
    run_as_nobody(daemon, body, "--log-level", "debug", env={"PASSWORD": secret})
    worker = running(daemon)["workerPid"]
    wait_for(lambda: daemon.notes("knows"))
    os.kill(worker, signal.SIGKILL)
    daemon.wait_status("a", "FAILED")
    daemon.config.write_text(daemon.config.read_text() + "WATCHDOG_USEC = 'hunter2'\n")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_log("Not reloaded")
    assert daemon.terminate() == 0
    assert secret not in daemon.stderr.read_text()


# --- a daemon that is not root ----------------------------------------------------------


@pytest.fixture
def settings_file() -> Iterator[Path]:
    """In reach of every user, as directories that pytest makes are not."""
    with tempfile.TemporaryDirectory(prefix="gs-", dir="/tmp") as made:
        Path(made).chmod(0o755)
        yield Path(made) / "geosched.toml"


def as_nobody(act: Callable[[], object]) -> Any:
    """What `act` gives in a process of the user nobody, which may use 100 s of processor
    time; it has to be something that JSON can carry."""
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir("/")
            resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writer, json.dumps(act()).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        answer = told.read()
    assert os.waitpid(pid, 0)[1] == 0
    return json.loads(answer)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('user = "nobody"', ""),
        ("user = 0", "user: only root can run a script as somebody else"),
        ("group = 0", "group: only root can run a script as somebody else"),
        ("nice = 5", ""),
        ("nice = -5", "nice: only root can go below "),
        ("oom_score_adj = 1000", ""),
        ("oom_score_adj = -1000", "oom_score_adj: only root can go below "),
        ('limits = { cpu = "100s" }', ""),
        ('limits = { cpu = "101s" }', "limits.cpu: only root can go beyond 100"),
        ('cwd = "/root/there"', "cwd: /root/there is not a directory"),
    ],
)
def test_a_daemon_that_is_not_root_says_what_it_cannot_give(
    settings_file: Path, line: str, problem: str
):
    if os.geteuid() == 0 and Path("/root").stat().st_mode & 0o005:
        pytest.skip("this host's /root is open to everybody")
    settings_file.write_text(
        '[daemon]\nstate_dir = "/tmp"\nruntime_dir = "/run"\nlog_dir = "/var/tmp"\n'
        f'[backend]\nurl = "https://b"\n[scripts.a]\ncommand = ["/bin/sh"]\n{line}\n'
    )
    found = as_nobody(lambda: preflight.check(load(settings_file)))
    about_scripts = [text for text in found if text.startswith("scripts.")]
    assert bool(about_scripts) == bool(problem), about_scripts
    assert not problem or about_scripts[0].startswith(f"scripts.a.{problem}")


@pytest.mark.parametrize(
    ("conditions", "problem"),
    [
        (Conditions(user="nobody", limits=Limits(cpu_seconds=100)), ""),
        (Conditions(user="root"), "user: only root can run a script as somebody else"),
        (Conditions(group="0"), "group: only root can run a script as somebody else"),
        (Conditions(nice=-5), "nice: Permission denied"),
        (Conditions(oom_score_adj=-1000), "oom_score_adj: Permission denied"),
        (Conditions(limits=Limits(cpu_seconds=101)), "limits.cpu: out of range on this host"),
    ],
)
def test_a_worker_that_is_not_root_names_what_it_cannot_give(conditions: Conditions, problem: str):
    def tried() -> str:
        order = Run(
            run_id="r",
            title="",
            command=("/bin/sh", "-c", "true"),
            environment={},
            input=b"",
            stop_signal=signal.SIGTERM,
            stop_grace_seconds=0.0,
            watchdog_seconds=0.0,
            heartbeat_seconds=1.0,
            output_path="",
            output_bytes_max=0,
            conditions=conditions,
        )
        try:
            script = start(order, credentials_of(order))
        except CannotStartError as error:
            return str(error)
        script.forget()
        return ""

    assert as_nobody(tried) == (problem and f"cannot start /bin/sh: {problem}")
