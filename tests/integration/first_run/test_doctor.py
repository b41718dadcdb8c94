"""`geosched-ctl doctor` says of a real host what is to do, before a daemon runs."""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from geosched.ipc.ctl.commands import doctor
from geosched.ipc.ctl.exits import Exit
from geosched.ipc.ctl.main import run
from geosched.ipc.messages.first_run import Finding, State
from geosched.workers.host.linux import clock_synchronised
from geosched.workers.host.privileges import UNNAMED_UID
from support.backend import BackendServer, entry
from support.ctl import COMMAND, environment
from support.daemon import Daemon, daemon_installation
from support.mounts import fill, mounted
from support.second_user import SECOND_USER
from support.stepped import SteppedClock
from support.tls import authority, ca_file, server_context
from support.wait import wait_for

TOKEN = "s3cret-token"
Findings = dict[str, dict[str, Any]]


@pytest.fixture
def host() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        installed.configure(scripts={"default": {"command": ["true"]}})
        yield installed


def backend_of(host: Daemon, url: str, **more: Any) -> None:
    """Have the configuration name a backend over the network, and a token."""
    token = host.root / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    backend = {"kind": "http", "url": url, "token_file": "token", **more}
    host.configure(scripts={"default": {"command": ["true"]}}, backend=backend)


def looked(
    config: Path, *, by: Sequence[str] = (), **variables: str
) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and findings; `by` is a command that executes it."""
    done = subprocess.run(
        [*by, COMMAND, "--config", config, "-o", "json", "doctor"],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert TOKEN not in done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["schemaVersion"] == 1
    return done.returncode, document["findings"]


def named(findings: list[dict[str, Any]]) -> Findings:
    """The worst of each name."""
    order = ["fine", "worth-knowing", "to-do"]
    return {each["name"]: each for each in sorted(findings, key=lambda f: order.index(f["state"]))}


def test_a_host_whose_backend_answers_is_told_so(host: Daemon) -> None:
    with BackendServer(token=TOKEN) as backend:
        backend.set_actions([entry("a"), entry("b"), {"id": "c"}])
        backend_of(host, backend.url)
        _, findings = looked(host.config)
        assert [asked.method for asked in backend.asked] == ["GET"], "it tells the backend nothing"
    found = named(findings)
    assert found["backend"]["seen"] == (
        f"{backend.url} answers with 2 actions, and 1 that cannot be used"
    )
    assert found["backend-clock"]["state"] == "fine"
    subjects = {"kernel", "rights", "cgroups", "ptrace", "limits", "memory", "clock", "rtc"}
    subjects |= {"file-system", "flash", "disk", "init", "daemon", "configuration"}
    assert subjects <= found.keys()
    assert all(each["seen"] and each["means"] for each in findings)
    assert all(each["todo"] for each in findings if each["state"] == "to-do")
    left = {path.name for path in host.root.iterdir()}
    assert left == {"geosched.toml", "token", "actions.json"}, "it changes nothing"


def test_the_network_is_asked_without_the_rights_of_root_and_nothing_is_left(host: Daemon) -> None:
    with BackendServer(fault="slow", slow_seconds=30.0) as backend:
        backend_of(host, backend.url)
        command = [COMMAND, "--config", host.config, "doctor"]
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE) as running:
            try:
                users = wait_for(lambda: users_of(backend.port), seconds=30)
                assert users == {UNNAMED_UID if os.geteuid() == 0 else os.geteuid()}
            finally:
                running.kill()  # as the end of a terminal does
        wait_for(lambda: not users_of(backend.port), what="the end of who asks")


def users_of(port: int) -> set[int]:
    """Whose the connections to a port of this host are (`/proc/net/tcp`)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    remote = f"0100007F:{port:04X}"
    return {int(row[7]) for row in rows if row[2] == remote and row[3] == "01"}


def test_a_refused_token_and_a_certificate_that_ends_tomorrow_are_to_do(
    host: Daemon, tmp_path: Path
) -> None:
    ca = authority()
    tls = server_context(ca, valid_days=(-300, 1.2))
    with BackendServer(token="another", tls=tls) as backend:
        backend_of(host, backend.url, ca_file=ca_file(ca, tmp_path))
        code, findings = looked(host.config)
    found = named(findings)
    assert code == 1
    assert found["backend"]["state"] == "to-do"
    assert found["backend"]["seen"] == f"{backend.url}/actions answers 401 Unauthorized"
    assert "token_file" in found["backend"]["todo"]
    assert found["certificate"]["state"] == "to-do"
    assert found["certificate"]["seen"].startswith(f"127.0.0.1:{backend.port}: valid until ")
    assert found["own-certificate"]["state"] == "fine"


def test_a_poor_host_is_told_all_of_it(host: Daemon) -> None:
    """A full disk, few descriptors, short files, no control groups, and a clock at 2000."""
    if os.geteuid() != 0:
        pytest.skip("file systems are mounted by root only")
    hide = "for kind in cgroup2 cgroup; do umount --lazy --all --types $kind; done"
    limits = "ulimit -n 75; ulimit -f 1024"
    started = f'{hide}; {limits}; exec "$0" "$@"'
    by = ("unshare", "--mount", "--propagation", "private", "sh", "-c", started)
    clock = SteppedClock(host.root)
    clock.step(-27 * 365 * 86_400)
    with mounted(host.root / "state", "-t", "tmpfs", "-o", "size=1m", "none"):
        fill(host.root / "state/all")
        code, findings = looked(host.config, by=by, **clock.environment)
    found = named(findings)
    assert code == 1
    assert found["file-system"]["seen"].endswith("is on tmpfs")
    assert found["disk"]["seen"] == f"state_dir: the file system of {host.root}/state is full"
    seen = {each["seen"] for each in findings if each["name"] == "limits"}
    assert "75 open files (ulimit -Hn) serve no run" in seen
    assert any(text.startswith("files may have ") for text in seen)
    assert found["cgroups"]["seen"] == "no hierarchy of control groups is mounted"
    if not clock_synchronised():
        assert "earlier than this version was made" in found["clock"]["seen"]
        assert found["clock"]["state"] == "to-do"


def test_without_a_configuration_the_host_is_looked_at_all_the_same(tmp_path: Path) -> None:
    code, findings = looked(tmp_path / "none.toml")
    found = named(findings)
    assert code == 1
    assert found["configuration"]["todo"] == "geosched-ctl init"
    assert found["backend"]["state"] == "worth-knowing"
    assert {"kernel", "clock", "disk", "init"} <= found.keys()


def test_a_configuration_of_others_sends_no_secret_of_roots_anywhere(host: Daemon) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has secrets that others cannot send themselves")
    with BackendServer(token=TOKEN) as backend:
        backend_of(host, backend.url)
        os.chown(host.config, SECOND_USER, SECOND_USER)
        code, findings = looked(host.config)
        assert backend.asked == []
    found = named(findings)
    assert code == 1
    assert found["backend"]["seen"] == (
        f"not asked: others can write it: {host.config} belongs to user {SECOND_USER}"
    )


def test_people_read_what_is_fine_first_and_what_is_to_do_last(host: Daemon) -> None:
    host.config.write_text("[backend\n")
    done = host.ctl("doctor")
    blocks = done.stdout.strip().split("\n\n")
    assert done.returncode == 1
    assert "fine: " in blocks[0]
    assert blocks[-1].splitlines()[0].split() == ["configuration", "to-do"]
    assert [line.split()[0] for line in blocks[-1].splitlines()] == [
        "configuration",
        "seen",
        "means",
        "do",
    ]
    assert "to do" in done.stderr


def test_a_look_that_takes_too_long_shows_what_it_has_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = Finding("kernel", State.FINE, "Linux", "it is there")
    (tmp_path / "hanging.py").write_text(
        "import sys, time\n"
        f"print({msgspec.json.encode(seen).decode()!r}, flush=True)\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor, "TOOL", "hanging")
    assert run(["--timeout", "2", "doctor"]) == Exit.NOT_DONE
    told = capsys.readouterr()
    assert told.out == "kernel  fine: Linux; it is there\n"
    assert "cannot look at this host: not done within 2 s" in told.err
