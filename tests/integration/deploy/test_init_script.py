"""The init script of sysvinit, in a prefix of its own, with the real commands."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.daemon import commands, processes_marked
from support.installing import install
from support.second_user import SECOND_USER, command_as, needs_two_users
from support.wait import wait_for

CONFIG = """
[daemon]
state_dir = "../../state"
runtime_dir = "../../run/geosched"
log_dir = "../../log"
[backend]
kind = "file"
path = "../../actions.json"
poll_interval = "1s"
"""
USAGE, NOT_INSTALLED, NOT_CONFIGURED, NOT_RUNNING = 2, 5, 6, 7
STATUS_RUNNING, STATUS_DEAD, STATUS_NOT_RUNNING, STATUS_UNKNOWN = 0, 1, 3, 4
Done = subprocess.CompletedProcess[str]


class Host:
    """A prefix that has everything a host with sysvinit has."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.pid_file = root / "run" / "geoschedd.pid"
        self.config = root / "etc/geosched/geosched.toml"
        self.log = root / "geoschedd.log"
        (root / "usr/bin").mkdir(parents=True)
        for command in ("geoschedd", "geosched-ctl"):
            (root / "usr/bin" / command).symlink_to(commands() / command)
        self.config.parent.mkdir(parents=True)
        self.config.write_text(CONFIG)
        (root / "actions.json").write_text("[]")
        assert install(root).returncode == 0
        self.set(RUN_DIR=root / "run", LOG=self.log)

    def set(self, **variables: object) -> None:
        """Add to what is in the file of defaults."""
        with (self.root / "etc/default/geosched").open("a") as file:
            file.writelines(f'{name}="{value}"\n' for name, value in variables.items())

    def service(self, action: str) -> Done:
        return subprocess.run(
            [self.root / "etc/init.d/geosched", action],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )

    def start(self) -> int:
        done = self.service("start")
        assert done.returncode == 0, (done, self.log_text())
        return self.pid()

    def pid(self) -> int:
        return int(self.pid_file.read_text())

    def log_text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def ping(self) -> Done:
        command = [
            self.root / "usr/bin/geosched-ctl",
            "--config",
            self.config,
            "-o",
            "json",
            "ping",
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)

    def clean_up(self) -> None:
        for pid in processes_marked(str(self.root)):
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not processes_marked(str(self.root)), what="the end of all processes")
        shutil.rmtree(self.root)


@pytest.fixture
def root() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="gs-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def host(root: Path) -> Iterator[Host]:
    if shutil.which("start-stop-daemon", path="/usr/sbin:/sbin:/usr/bin:/bin") is None:
        pytest.skip("there is no start-stop-daemon here")
    made = Host(root)
    try:
        yield made
    finally:
        made.clean_up()


# --- the init script --------------------------------------------------------------------


def test_start_returns_when_the_daemon_answers_and_stop_when_it_is_gone(host: Host) -> None:
    assert host.service("status").returncode == STATUS_NOT_RUNNING
    pid = host.start()
    assert json.loads(host.ping().stdout)["pid"] == pid, "the pid file names the daemon itself"
    assert host.service("status").returncode == STATUS_RUNNING
    assert host.start() == pid, "a second start changes nothing"

    stopped = host.service("stop")
    assert stopped.returncode == 0
    assert pid not in processes_marked(str(host.root))
    assert not host.pid_file.exists()
    assert host.ping().returncode == 3
    assert host.service("status").returncode == STATUS_NOT_RUNNING
    assert host.service("stop").returncode == 0, "a second stop changes nothing"


def test_after_a_crash_status_says_dead_and_start_starts(host: Host) -> None:
    first = host.start()
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: host.service("status").returncode == STATUS_DEAD, what="status 1")
    second = host.start()
    assert host.service("restart").returncode == 0
    third = host.pid()
    assert len({first, second, third}) == 3
    assert json.loads(host.ping().stdout)["pid"] == third
    assert host.service("stop").returncode == 0
    assert host.service("status").returncode == STATUS_NOT_RUNNING


def test_a_pid_that_is_anothers_by_now_is_not_the_daemon(host: Host) -> None:
    host.pid_file.parent.mkdir()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        try:
            host.pid_file.write_text(f"{stranger.pid}\n")
            assert host.service("status").returncode == STATUS_DEAD
            assert host.service("reload").returncode == NOT_RUNNING
            assert host.service("stop").returncode == 0
            assert stranger.poll() is None
            host.pid_file.write_text(f"{stranger.pid}\n")
            assert host.start() != stranger.pid
        finally:
            stranger.kill()


@needs_two_users
def test_of_a_stranger_with_the_pid_of_the_daemon_nothing_is_believed(host: Host) -> None:
    """Whatever its command line says, and the file that it has open."""
    place = host.root.with_name(f"{host.root.name}-stranger")
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    try:
        lying = f"echo $$ >{place}/lock; exec 9<{place}/lock; read _"
        words = (str(host.root / "usr/bin/geoschedd"), "--config", str(host.config))
        stranger = command_as(SECOND_USER, "/bin/sh", "-c", lying, *words, stdin=subprocess.PIPE)
        try:
            assert_left_alone(host, stranger, place)
        finally:
            stranger.kill()
            stranger.wait()
            assert stranger.stdin is not None
            stranger.stdin.close()
    finally:
        shutil.rmtree(place)


def assert_left_alone(host: Host, stranger: "subprocess.Popen[bytes]", place: Path) -> None:
    wait_for(lambda: (place / "lock").exists() and (place / "lock").read_text())
    host.pid_file.parent.mkdir()
    host.pid_file.write_text(f"{stranger.pid}\n")
    assert host.service("status").returncode == STATUS_DEAD
    assert host.service("reload").returncode == NOT_RUNNING
    assert host.service("stop").returncode == 0
    host.pid_file.write_text(f"{stranger.pid}\n")
    assert host.start() != stranger.pid
    assert stranger.poll() is None


def test_a_process_of_ours_that_looks_like_the_daemon_has_no_lock(host: Host) -> None:
    """Such as an editor of its file, or another of its commands."""
    words = (str(host.root / "usr/bin/geoschedd"), "--config", str(host.config))
    host.pid_file.parent.mkdir()
    host.set(LOCK_SECONDS=0)
    with subprocess.Popen(["/bin/sh", "-c", "read _", *words], stdin=subprocess.PIPE) as editor:
        try:
            host.pid_file.write_text(f"{editor.pid}\n")
            assert host.service("status").returncode == STATUS_UNKNOWN
            assert host.service("reload").returncode == NOT_RUNNING
            stopped = host.service("stop")
            assert stopped.returncode == 1
            assert "has no lock of a daemon" in stopped.stderr
            assert editor.poll() is None
            assert host.start() != editor.pid
            assert editor.poll() is None
        finally:
            editor.kill()


def test_a_daemon_whose_pid_file_is_lost_is_still_known_and_stopped(host: Host) -> None:
    pid = host.start()
    host.pid_file.unlink()
    status = host.service("status")
    assert (status.returncode, f"running (pid {pid})" in status.stdout) == (STATUS_RUNNING, True)
    assert host.start() == pid, "a second start changes nothing, and writes the file anew"
    host.pid_file.unlink()
    assert host.service("reload").returncode == 0
    assert host.service("stop").returncode == 0
    assert pid not in processes_marked(str(host.root))


def test_without_its_pid_file_no_daemon_of_another_configuration_is_taken_for_it(
    host: Host,
) -> None:
    pid = host.start()
    host.pid_file.unlink()
    another = host.config.with_name("another.toml")
    another.write_text(CONFIG)
    host.set(CONFIG=another)
    assert host.service("status").returncode == STATUS_NOT_RUNNING
    assert host.service("stop").returncode == 0
    host.set(CONFIG=host.config)
    assert host.service("status").returncode == STATUS_RUNNING
    assert pid in processes_marked(str(host.root))


@pytest.mark.parametrize("action", ["restart", "try-restart", "reload"])
def test_a_mistake_in_the_configuration_fails_and_changes_nothing(host: Host, action: str) -> None:
    pid = host.start()
    host.config.write_text(CONFIG + "[deamon]\n")
    failed = host.service(action)
    assert failed.returncode == NOT_CONFIGURED
    assert "deamon: unknown key" in failed.stderr
    assert host.pid() == pid
    assert json.loads(host.ping().stdout)["pid"] == pid


def test_reload_reaches_the_daemon(host: Host) -> None:
    assert host.service("reload").returncode == NOT_RUNNING
    pid = host.start()
    assert host.service("force-reload").returncode == 0
    wait_for(lambda: "Reloaded" in host.log_text(), what="a reload in the log")
    assert host.pid() == pid


def test_try_restart_starts_nothing_that_does_not_run(host: Host) -> None:
    assert host.service("try-restart").returncode == 0
    assert host.service("status").returncode == STATUS_NOT_RUNNING


def test_a_daemon_that_does_not_stop_is_killed_in_time(host: Host) -> None:
    host.set(STOP_SECONDS=1)
    os.kill(host.start(), signal.SIGSTOP)
    stopped = host.service("stop")
    assert stopped.returncode == 0
    assert "did not stop within 1 s" in stopped.stderr
    assert host.service("status").returncode == STATUS_NOT_RUNNING


def test_what_keeps_it_from_starting_has_its_own_code(host: Host) -> None:
    assert host.service("strat").returncode == USAGE

    host.config.write_text(CONFIG + "[deamon]\n")
    failed = host.service("start")
    assert failed.returncode == 1
    assert "deamon: unknown key" in failed.stderr
    assert "deamon: unknown key" in host.log_text()
    assert host.service("status").returncode == STATUS_NOT_RUNNING

    host.config.unlink()
    assert host.service("start").returncode == NOT_CONFIGURED
    (host.root / "usr/bin/geoschedd").unlink()
    assert host.service("start").returncode == NOT_INSTALLED


def test_its_log_goes_to_syslog_where_there_is_one(host: Host) -> None:
    """A stand-in for `logger` keeps what it is given."""
    logger = host.root / "logger" / "logger"
    kept = host.root / "syslog"
    logger.parent.mkdir()
    logger.write_text(f'#!/bin/sh\necho "$*" >>{kept}\nexec cat >>{kept}\n')
    logger.chmod(0o755)
    host.set(LOG="syslog", PATH=f"{logger.parent}:/usr/sbin:/usr/bin:/sbin:/bin")
    pid = host.start()
    assert json.loads(host.ping().stdout)["pid"] == pid
    wait_for(lambda: "Ready" in kept.read_text(), what="the daemon's words in syslog")
    assert kept.read_text().startswith("-t geoschedd -p daemon.info\n")
    assert not list((host.root / "run").glob("*.log")), "the pipe has no name any more"
    assert host.service("stop").returncode == 0
    wait_for(lambda: not processes_marked(str(host.root)), what="the end of the logger")


def test_without_syslog_its_log_goes_to_a_file(host: Host) -> None:
    log_file = host.root / "logs" / "geoschedd.log"
    host.set(LOG="", LOG_FILE=log_file, PATH="/nowhere")
    tools = host.root / "tools"
    tools.mkdir()
    for tool in ("sh", "tr", "rm", "ls", "mkdir", "sleep", "start-stop-daemon", "env"):
        found = shutil.which(tool, path="/usr/sbin:/usr/bin:/sbin:/bin")
        assert found is not None
        (tools / tool).symlink_to(found)
    host.set(PATH=tools)
    host.start()
    wait_for(lambda: "Ready" in log_file.read_text())


def given_away(logs: Path) -> None:
    os.chown(logs, SECOND_USER, SECOND_USER)


def for_everybody(logs: Path) -> None:
    logs.chmod(0o777)


def sticky(logs: Path) -> None:
    logs.chmod(0o1777)


def for_a_group(logs: Path) -> None:
    os.chown(logs, 0, SECOND_USER)
    logs.chmod(0o775)


@needs_two_users
@pytest.mark.parametrize("below", ["geoschedd.log", "below/geoschedd.log", "link/geoschedd.log"])
@pytest.mark.parametrize(
    ("share", "reason"),
    [
        (given_away, f"belongs to user {SECOND_USER}"),
        (for_everybody, "is writable by everybody"),
        (for_a_group, f"is writable by group {SECOND_USER}"),
    ],
)
def test_its_log_is_not_where_others_could_have_put_a_file(
    host: Host, share: Callable[[Path], None], reason: str, below: str
) -> None:
    logs = host.root / "logs"
    logs.mkdir()
    (host.root / "roots").mkdir()
    if below.startswith("link"):
        (logs / "link").symlink_to(host.root / "roots")
    share(logs)
    host.set(LOG=logs / below)
    assert_not_started(host, f"cannot log to {logs / below}: {logs} {reason}")
    assert list((host.root / "roots").iterdir()) == []
    assert [path.name for path in logs.iterdir()] in ([], ["link"])


@needs_two_users
@pytest.mark.parametrize("owner", [0, SECOND_USER])
def test_its_log_is_in_a_sticky_directory_only_below_one_of_root_s(host: Host, owner: int) -> None:
    logs = host.root / "logs"
    (logs / "below").mkdir(parents=True)
    sticky(logs)
    os.chown(logs / "below", owner, owner)
    host.set(LOG=logs / "geoschedd.log")
    assert_not_started(host, f"{logs} is writable by everybody")
    host.set(LOG=logs / "below/geoschedd.log")
    if owner == 0:
        host.start()
        written = logs / "below/geoschedd.log"
        wait_for(lambda: "Ready" in written.read_text(), what="its log")
    else:
        assert_not_started(host, f"{logs}/below belongs to user {SECOND_USER}")


@needs_two_users
def test_its_log_is_no_link(host: Host) -> None:
    secret = host.root / "secret"
    secret.write_text("root only")
    host.log.symlink_to(secret)
    assert_not_started(host, f"cannot log to {host.log}: {host.log} is a link")
    assert secret.read_text() == "root only"


@needs_two_users
def test_its_log_is_behind_a_link_of_root_s_but_not_of_others(host: Host) -> None:
    (host.root / "roots").mkdir()
    (host.root / "link").symlink_to("roots")
    host.set(LOG=host.root / "link/geoschedd.log")
    os.chown(host.root / "link", SECOND_USER, SECOND_USER, follow_symlinks=False)
    assert_not_started(host, f"{host.root}/link belongs to user {SECOND_USER}")
    os.chown(host.root / "link", 0, 0, follow_symlinks=False)
    host.start()
    written = host.root / "roots/geoschedd.log"
    wait_for(lambda: "Ready" in written.read_text(), what="its log")


def assert_not_started(host: Host, reason: str) -> None:
    done = host.service("start")
    assert done.returncode == 1
    assert reason in done.stderr
    assert host.service("status").returncode == STATUS_NOT_RUNNING
