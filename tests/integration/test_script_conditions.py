"""As whom, where and within which limits a script runs; and what root does not start."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from support.daemon import Daemon, daemon_installation, entry, lives
from support.wait import wait_for

LONG = 3600
NOBODY = 65534


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    if os.geteuid() != 0:
        pytest.skip("a script becomes somebody else only under a daemon that is root")
    with daemon_installation() as installed:
        # What it runs and writes is in reach of every user; nobody else can write there.
        installed.root.chmod(0o755)
        installed.journal.touch()
        installed.journal.chmod(0o666)
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


def test_limits_are_those_of_the_script(daemon: Daemon):
    limits = {"open_files": "#77#", "processes": "#66#", "file_size": "8KiB", "cpu": "9s"}
    names = "Max (open files|processes|file size|cpu time)"
    run(daemon, f"grep -E '{names}' /proc/self/limits", user="nobody", limits=limits)
    shown = {line[:26].strip(): line[26:].split()[:2] for line in said(daemon)}
    assert shown == {
        "Max open files": ["77", "77"],
        "Max processes": ["66", "66"],
        "Max file size": ["8192", "8192"],
        "Max cpu time": ["9", "9"],
    }


@pytest.mark.parametrize(
    ("body", "limits", "name"),
    [
        ("while :; do :; done", {"cpu": "1s"}, "SIGKILL"),
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
    (key,) = conditions
    assert f"scripts.default.{key}: " in daemon.log_text()
    assert daemon.terminate() == 0
    daemon.start("--check", wait=False)
    assert daemon.process is not None
    assert daemon.process.wait(10) == 2


def test_a_deaf_script_of_another_user_is_stopped_like_any(daemon: Daemon):
    run(daemon, "trap '' TERM; note began; sleep 600 & wait; sleep 600", user="nobody")
    wait_for(lambda: daemon.notes("began"))
    pid = daemon.action("a")["run"]["scriptPid"]
    assert daemon.ctl("stop", "a").returncode == 0
    assert not lives(pid)
    assert not daemon.left_of("a")


def test_a_script_that_became_another_user_dies_with_its_worker_all_the_same(daemon: Daemon):
    run(daemon, "note began; exec sleep 600", user="nobody")
    wait_for(lambda: daemon.notes("began"))
    shown = daemon.action("a")["run"]
    assert daemon.process is not None
    # With its supervisor stopped nobody but the kernel ends it.
    daemon.process.send_signal(signal.SIGSTOP)
    os.kill(shown["workerPid"], signal.SIGKILL)
    wait_for(lambda: not lives(shown["scriptPid"]))


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
    if what != "configuration":
        assert refused in daemon.wait_status("b", "FAILED")["detail"]
    assert daemon.terminate() == 0
    for arguments in ((), ("--check",)):
        daemon.start(*arguments, wait=False)
        assert daemon.process.wait(10) == 2
