"""A real `geoschedd` in directories of its own, driven through its commands; what is
looked at again and again is asked for as they do."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from geosched.ipc.client import Client, ClientError, Wanted
from geosched.ipc.messages.control import ActionIs, Ping, Pong, Request, ShowAction
from geosched.ipc.paths import control_socket

from .wait import wait_for

#: How often to look at an action: a daemon that is asked without a break does little else.
LOOK_SECONDS = 0.05


def commands() -> Path:
    """Where the commands are: of this environment, or of the wheel under test."""
    return Path(os.environ.get("GEOSCHED_TEST_BIN", Path(sys.executable).parent))


def instant(seconds_from_now: float) -> str:
    """An RFC 3339 text, so many seconds from now."""
    moment = datetime.now(UTC) + timedelta(seconds=seconds_from_now)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def entry(action_id: str, start: float, end: float, **changes: Any) -> dict[str, Any]:
    """An action as a backend sends it; its window is given in seconds from now."""
    return {
        "id": action_id,
        "fromDate": instant(start),
        "toDate": instant(end),
        "shouldBeExecuted": True,
        "appNames": ["Chrome"],
    } | changes


def lives(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX"


def processes_marked(mark: str) -> list[int]:
    """Pids of living processes with `mark` in their environment or command line."""
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or int(directory.name) == os.getpid():
            continue
        try:
            text = (directory / "environ").read_bytes() + (directory / "cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in text and lives(int(directory.name)):
            found.append(int(directory.name))
    return found


class Daemon:
    """One installation: a configuration, its directories, and the daemon while it runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "geosched.toml"
        self.actions_file = root / "actions.json"
        self.journal = root / "journal"  # scripts append a line here when they begin and end
        self.process: subprocess.Popen[bytes] | None = None
        self.stderr = root / "daemon.log"
        self.by_command = False  # whether everything is asked for by commands
        self.send([])

    # --- configuration ------------------------------------------------------------------

    def configure(
        self,
        *,
        scripts: dict[str, dict[str, Any]],
        backend: dict[str, Any] | None = None,
        **daemon: Any,
    ) -> None:
        chosen = {"kind": "file", "path": "actions.json", "poll_interval": "200ms"}
        chosen |= backend or {}
        if chosen["kind"] != "file":
            chosen.pop("path")
        sections: dict[str, dict[str, Any]] = {
            "daemon": {"state_dir": "state", "runtime_dir": "run", "log_dir": "log"} | daemon,
            "backend": chosen,
        }
        sections |= {f"scripts.{kind}": script for kind, script in scripts.items()}
        lines = []
        for name, section in sections.items():
            lines.append(f"[{name}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in section.items()]
        self.config.write_text("\n".join(lines) + "\n")

    def script(self, name: str, body: str) -> str:
        """An executable shell script; `note WORD` in it appends a line to the journal."""
        path = self.root / name
        note = (
            f'note() {{ echo "$1 $GEOSCHED_ACTION_ID $GEOSCHED_RUN_ID $$" >> "{self.journal}"; }}'
        )
        path.write_text(f"#!/bin/sh\n{note}\n{body}\n")
        path.chmod(0o755)
        return str(path)

    def send(self, actions: Sequence[dict[str, Any]]) -> None:
        """What the backend holds from now on; renamed into place, never half there."""
        new = self.actions_file.with_suffix(".new")
        new.write_text(json.dumps(actions))
        new.rename(self.actions_file)

    # --- commands -----------------------------------------------------------------------

    def start(
        self,
        *arguments: str,
        wait: bool = True,
        env: dict[str, str] | None = None,
        by: Sequence[str] = (),
    ) -> None:
        """Start the daemon; `by` is a command that executes it."""
        with self.stderr.open("ab") as log:
            self.process = subprocess.Popen(
                [*by, commands() / "geoschedd", "--config", self.config, *arguments],
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=os.environ | (env or {}),
            )
        if wait:
            wait_for(self._answers, seconds=15, what=f"a daemon that answers ({self.log_text()})")

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(
                f"geoschedd left with {self.process.returncode}: {self.log_text()}"
            )
        if self.by_command:
            return self.ctl("ping").returncode == 0
        return self.asked(Ping(), Pong) is not None

    def log_text(self) -> str:
        return self.stderr.read_text()[-4000:] if self.stderr.exists() else ""

    def wait_log(self, text: str, *, seconds: float = 10) -> None:
        """The log has a process of its own, which writes after what it tells of has happened."""
        wait_for(
            lambda: text in self.stderr.read_text(), seconds=seconds, what=f"a log with {text}"
        )

    def ctl(self, *arguments: str, timeout: float = 40) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [commands() / "geosched-ctl", "--config", self.config, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        done = self.ctl("-o", "json", *arguments)
        assert done.returncode == 0, (arguments, done.stderr, self.log_text())
        return json.loads(done.stdout)

    def action(self, action_id: str) -> dict[str, Any] | None:
        """As `show` prints it; None where it is not known, or nobody answers."""
        if self.by_command:
            done = self.ctl("-o", "json", "show", action_id)
            return json.loads(done.stdout)["action"] if done.returncode == 0 else None
        found = self.asked(ShowAction(action_id), ActionIs)
        return None if found is None else json.loads(msgspec.json.encode(found.action))

    def asked(self, request: Request, expected: type[Wanted]) -> Wanted | None:
        """An answer by way of the socket: a command takes a hundred times as long, most of
        it to begin, and what is waited for is looked at again and again."""
        try:
            with Client(control_socket(self.config)) as client:
                return client.ask(request, expected)
        except (ClientError, OSError, ValueError):
            return None

    def actions(self) -> dict[str, dict[str, Any]]:
        """All of them at one look, by their id."""
        return {shown["id"]: shown for shown in self.json("list")["actions"]}

    def wait_phase(self, action_id: str, phase: str, *, seconds: float = 15) -> dict[str, Any]:
        return self._wait(action_id, "phase", phase, seconds)

    def wait_status(self, action_id: str, status: str, *, seconds: float = 15) -> dict[str, Any]:
        return self._wait(action_id, "executionStatus", status, seconds)

    def _wait(self, action_id: str, key: str, value: str, seconds: float) -> dict[str, Any]:
        last: list[Any] = []

        def reached() -> dict[str, Any] | None:
            last[:] = [self.action(action_id)]
            return last[0] if last[0] and last[0][key] == value else None

        try:
            return wait_for(reached, seconds=seconds, pause_seconds=LOOK_SECONDS)
        except AssertionError:
            raise AssertionError(
                f"{action_id}: {key} is not {value} within {seconds} s: {last}\n{self.log_text()}"
            ) from None

    def notes(self, word: str = "", action_id: str = "") -> list[list[str]]:
        """The scripts' own lines: word, action id, run id, pid."""
        lines = self.journal.read_text().splitlines() if self.journal.exists() else []
        notes = [line.split() for line in lines]
        return [n for n in notes if word in ("", n[0]) and action_id in ("", n[1])]

    def reports(self) -> list[dict[str, Any]]:
        """What the `file` backend was told."""
        path = Path(f"{self.actions_file}.status.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def left_of(self, action_id: str) -> list[int]:
        """Living processes of the newest run of an action, by the mark of that run."""
        shown = self.action(action_id)
        assert shown is not None
        return processes_marked(f"GEOSCHED_RUN_ID={shown['run']['runId']}\0")

    # --- endings ------------------------------------------------------------------------

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def terminate(self, *, seconds: float = 30) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def clean_up(self) -> None:
        """End everything that belongs to this installation, whatever state it is in."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        deadline = time.monotonic() + 8
        while left := self._left():
            if time.monotonic() > deadline:
                for pid in left:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        shutil.rmtree(self.root, ignore_errors=True)

    def _left(self) -> list[int]:
        """Scripts by their mark; children of the daemon by what they wrote down, because
        their titles have wiped their marks."""
        declared = [int(path.name) for path in self.root.glob("run/processes/[0-9]*[0-9]")]
        return processes_marked(str(self.root)) + [pid for pid in declared if lives(pid)]


@contextmanager
def daemon_installation() -> Iterator[Daemon]:
    """In a short path below /tmp, because a socket's path holds 107 bytes."""
    installed = Daemon(Path(tempfile.mkdtemp(prefix="gs-", dir="/tmp")))
    try:
        yield installed
    finally:
        installed.clean_up()


@contextmanager
def installation_for_everybody() -> Iterator[Daemon]:
    """One whose scripts any user can run, and can append to the journal; nobody else can
    write anything else there. For root only."""
    if os.geteuid() != 0:
        pytest.skip("a script becomes somebody else only under a daemon that is root")
    with daemon_installation() as installed:
        installed.root.chmod(0o755)
        installed.journal.touch()
        installed.journal.chmod(0o666)
        yield installed
