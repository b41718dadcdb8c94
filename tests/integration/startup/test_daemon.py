"""`geoschedd` as a process: its exit codes, its signals, what it tells the service manager."""

import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest
from geosched.supervisor.store.tables.migrations import FORMAT
from support.backend import BackendServer
from support.daemon import Daemon, commands, daemon_installation, entry
from support.processes import zygote
from support.store import on_disk
from support.wait import wait_for


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        script = installed.script("s", "trap 'exit 0' TERM\nnote began\nsleep 600 & wait $!")
        installed.configure(scripts={"default": {"command": [script], "stop_grace": "2s"}})
        yield installed


def run(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [commands() / "geoschedd", "--config", daemon.config, *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_check_of_a_good_configuration_creates_nothing_and_is_zero(daemon: Daemon):
    before = sorted(daemon.root.rglob("*"))
    assert run(daemon, "--check").returncode == 0
    assert sorted(daemon.root.rglob("*")) == before


@pytest.mark.parametrize("arguments", [(), ("--check",)])
@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("max_runing = 3", "daemon.max_runing"),
        ("max_running = 0", "daemon.max_running"),
        ('max_running = "3"', "daemon.max_running"),
        ('clock_wait = "10 parsecs"', "daemon.clock_wait"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_clear_line_and_exit_2(
    daemon: Daemon, line: str, key: str, arguments: tuple[str, ...]
):
    text = daemon.config.read_text().replace("[daemon]", f"[daemon]\n{line}")
    daemon.config.write_text(text)
    done = run(daemon, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert key in done.stderr
    assert str(daemon.config) in done.stderr


def test_a_missing_configuration_names_the_file(daemon: Daemon):
    daemon.config.unlink()
    done = run(daemon)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert str(daemon.config) in done.stderr


def test_a_runtime_directory_that_cannot_be_made_is_one_clear_line_and_exit_2(daemon: Daemon):
    (daemon.root / "run").write_text("a file")
    done = run(daemon)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "runtime_dir" in done.stderr


def test_a_second_daemon_on_the_same_directories_leaves_with_3_and_names_the_first(daemon: Daemon):
    daemon.start()
    done = run(daemon)
    assert done.returncode == 3
    assert daemon.process is not None
    assert str(daemon.process.pid) in done.stderr
    assert str(daemon.root / "state") in done.stderr
    assert daemon.ctl("ping").returncode == 0


def test_a_newer_store_is_refused_with_4_and_left_untouched(daemon: Daemon):
    daemon.start()
    daemon.terminate()
    newer = (FORMAT + 1).to_bytes(4, "big")
    on_disk(daemon.root / "state", "meta", lambda txn, db: txn.put(b"format", newer, db=db))
    data = daemon.root / "state" / "daemondb" / "data.mdb"
    before = data.read_bytes()
    done = run(daemon)
    assert done.returncode == 4
    assert f"its format {FORMAT + 1} is newer" in done.stderr
    assert data.read_bytes() == before


def test_reading_the_store_writes_nothing_beside_it(daemon: Daemon):
    """LMDB marks its lock file whenever it reads; that is not on the flash (fact L30)."""
    daemon.start()
    lock = daemon.root / "state" / "daemondb" / "lock.mdb"
    assert lock.resolve() == (daemon.root / "run" / "daemondb.lock").resolve()
    assert daemon.json("db", "check")["good"]
    daemon.terminate()
    (daemon.root / "run" / "daemondb.lock").unlink()  # as a boot does on a tmpfs
    assert daemon.json("db", "stats")["tables"]
    daemon.start()
    assert daemon.json("db", "check")["good"]


def test_a_store_that_is_gone_is_replaced_and_told_of_until_somebody_has_seen_it(daemon: Daemon):
    daemon.send([entry("a", 600, 1200)])
    daemon.start()
    daemon.wait_phase("a", "scheduled")
    daemon.terminate()
    (daemon.root / "state" / "daemondb" / "data.mdb").write_bytes(b"")
    daemon.start()
    daemon.wait_phase("a", "scheduled")  # the next pull brings it again
    (incident,) = daemon.json("status")["store"]["incidents"]
    assert "missing or empty" in incident["detail"]
    assert incident["setAside"] is None  # nothing was left of it
    assert "ATTENTION" in daemon.ctl("status").stdout
    daemon.terminate()
    daemon.start()
    assert daemon.json("db", "acknowledge")["acknowledged"] == [incident]
    assert daemon.json("status")["store"]["incidents"] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_sigint_stop_in_order(daemon: Daemon, number: signal.Signals):
    daemon.start()
    assert daemon.process is not None
    daemon.process.send_signal(number)
    assert daemon.process.wait(10) == 0
    assert not (daemon.root / "run" / "control.sock").exists()
    assert daemon.ctl("ping").returncode == 3


def test_shutdown_returns_when_the_daemon_is_gone(daemon: Daemon):
    daemon.send([entry("a", -1, 600)])
    daemon.start()
    daemon.wait_phase("a", "running")
    assert daemon.ctl("shutdown").returncode == 0
    assert daemon.process is not None
    assert daemon.process.wait(2) == 0


def test_sighup_reloads_all_or_nothing(daemon: Daemon):
    daemon.start()
    assert daemon.process is not None
    good = daemon.config.read_text()
    daemon.config.write_text(good.replace("[daemon]", "[daemon]\nmax_running = no"))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_log("Not reloaded")
    new = good.replace("[daemon]", "[daemon]\nmax_running = 1")
    daemon.config.write_text(new.replace('log_dir = "log"', 'log_dir = "elsewhere"'))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_log("Reloaded")
    daemon.wait_log("daemon.log_dir needs a restart")
    daemon.send([entry("a", -2, 600), entry("b", -1, 600)])
    daemon.wait_phase("b", "queued")


def test_the_service_manager_is_told_ready_watchdog_reloading_and_stopping(daemon: Daemon):
    path = daemon.root / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(10)
        told: list[str] = []

        def hear(word: str) -> None:
            while not any(word in message for message in told):
                told.append(manager.recv(4096).decode())

        daemon.start(env={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "600000"})
        hear("READY=1")
        assert "STATUS=" in told[0]
        hear("WATCHDOG=1")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        hear("RELOADING=1")
        daemon.process.send_signal(signal.SIGTERM)
        hear("STOPPING=1")
        assert daemon.process.wait(10) == 0


def test_a_full_run_is_seen_by_ps_and_leaves_nothing_behind(daemon: Daemon):
    daemon.send([entry("a", -1, 600)])
    daemon.start()
    run = daemon.wait_phase("a", "running")["run"]
    with open(f"/proc/{run['workerPid']}/cmdline", "rb") as file:
        assert b"a (default)" in file.read()
    assert os.getpgid(run["scriptPid"]) == run["scriptPid"]
    daemon.terminate()
    assert list((daemon.root / "run" / "runs").iterdir()) == []
    assert list((daemon.root / "run" / "results").iterdir()) == []
    assert list((daemon.root / "run" / "processes").iterdir()) == []


def test_a_daemon_that_is_stopped_while_its_first_children_begin_leaves_none_behind(
    daemon: Daemon,
):
    daemon.start()
    daemon.terminate()
    assert list((daemon.root / "run" / "processes").iterdir()) == []


def test_a_daemon_whose_zygote_has_to_be_killed_leaves_nothing_behind(daemon: Daemon):
    daemon.start()
    processes = daemon.root / "run" / "processes"
    wait_for((processes / str(zygote(daemon))).exists)
    os.kill(zygote(daemon), signal.SIGSTOP)
    assert daemon.terminate() == 0
    assert list(processes.iterdir()) == []


def test_when_the_log_directory_fails_output_is_lost_and_counted_and_never_a_run(daemon: Daemon):
    script = daemon.script("loud", "echo out; echo err >&2; exit 0")
    daemon.configure(scripts={"default": {"command": [script]}})
    (daemon.root / "log").write_text("a file, no directory")
    daemon.send([entry("a", -1, 600)])
    daemon.start()
    daemon.wait_status("a", "FINISHED")
    assert daemon.ctl("logs", "a").returncode == 1
    assert daemon.json("status")["outputLostBytes"] == 8


def test_when_the_runtime_directory_loses_its_folders_runs_fail_with_a_reason(daemon: Daemon):
    daemon.start()
    runs = daemon.root / "run" / "runs"
    runs.rmdir()
    runs.write_text("a file, no directory")
    daemon.send([entry("a", -1, 600)])
    failed = daemon.wait_status("a", "FAILED")
    assert failed["reason"] == "cannot-start"
    assert "lock" in failed["detail"]


def test_a_backend_that_is_away_stops_nothing(daemon: Daemon):
    daemon.send([entry("a", -1, 600), entry("b", 2, 600)])
    daemon.start()
    daemon.wait_phase("a", "running")
    daemon.actions_file.unlink()
    wait_for(lambda: daemon.json("status")["backend"]["lastPullOk"] is False)
    assert "actions.json" in daemon.json("status")["backend"]["lastError"]
    daemon.wait_phase("b", "running")
    assert daemon.action("a")["phase"] == "running"


def test_actions_with_a_thousand_apps_are_listed_and_shown(daemon: Daemon):
    apps = [f"{number:04d}" + "x" * 251 for number in range(1000)]
    daemon.send([entry(f"a{n}", 600, 900, appNames=apps) for n in range(5)])
    daemon.start()
    daemon.wait_phase("a4", "scheduled")
    assert daemon.action("a0")["appNames"] == apps
    assert [action["id"] for action in daemon.json("list")["actions"]] == [
        f"a{n}" for n in range(5)
    ]


def test_a_worker_killed_while_the_daemon_leaves_settles_nothing(daemon: Daemon):
    script = daemon.script("stubborn", "trap '' TERM\nnote began\nwhile :; do sleep 0.1; done")
    daemon.configure(scripts={"default": {"command": [script], "stop_grace": "3s"}})
    daemon.send([entry("a", -1, 600)])
    daemon.start()
    worker = daemon.wait_phase("a", "running")["run"]["workerPid"]
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_log("Stopping")
    os.kill(worker, signal.SIGKILL)
    assert daemon.process.wait(10) == 0
    daemon.start()
    assert daemon.wait_phase("a", "running")["attempt"] == 2


def test_killed_workers_leave_no_files_behind(daemon: Daemon):
    daemon.send([entry(f"a{n}", -1, 600) for n in range(3)])
    daemon.start()
    for n in range(3):
        os.kill(daemon.wait_phase(f"a{n}", "running")["run"]["workerPid"], signal.SIGKILL)
    for n in range(3):
        daemon.wait_status(f"a{n}", "FAILED")
    assert list((daemon.root / "run" / "runs").iterdir()) == []
    assert list((daemon.root / "run" / "results").iterdir()) == []


def test_a_strange_file_among_the_run_locks_does_not_stop_the_start(daemon: Daemon):
    (daemon.root / "run" / "runs" / "strange").mkdir(parents=True)
    daemon.start()
    assert daemon.ctl("ping").returncode == 0


def test_a_script_has_the_limits_that_the_daemon_was_started_with(daemon: Daemon):
    script = daemon.script("limits", "ulimit -Sn")
    daemon.configure(scripts={"default": {"command": [script]}})
    daemon.send([entry("a", -1, 600)])
    daemon.start()
    daemon.wait_status("a", "FINISHED")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert daemon.ctl("logs", "a").stdout == f"{soft}\n"


def test_a_backend_that_answers_but_takes_no_report_is_asked_less_and_less(daemon: Daemon):
    with BackendServer() as backend:
        backend.report_answer = b'{"accepted": []}'
        script = daemon.script("q", "exit 0")
        daemon.configure(
            scripts={"default": {"command": [script]}},
            backend={"kind": "http", "url": backend.url, "poll_interval": "200ms"},
        )
        backend.set_actions([entry("a", -1, 600)])
        daemon.start()
        daemon.wait_status("a", "FINISHED")
        wait_for(lambda: daemon.json("status")["backend"]["lastReportError"])
        pulls = len([asked for asked in backend.asked if asked.method == "GET"])

        def pulled_ten_times_more() -> bool:
            return len([a for a in backend.asked if a.method == "GET"]) > pulls + 10

        wait_for(pulled_ten_times_more)
        assert len([asked for asked in backend.asked if asked.method == "POST"]) < 10
        assert daemon.json("status")["outbox"]["depth"] == 2
