"""The daemon of a soak and its processes: found by kind, hit, and looked at from outside."""

import os
import re
import signal
import time
from pathlib import Path

from geosched.ipc.client import Client, ClientError
from geosched.ipc.messages.control import ActionsAre, GetStatus, ListActions, StatusIs
from geosched.ipc.paths import Runtime
from geosched.workers.host import procfs
from geosched.workers.runfiles.processes import read_identities
from support.daemon import Daemon

#: What the supervisor itself takes up: file descriptors, threads, kilobytes, zombies.
Resources = tuple[int, int, int, int]


def now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Processes:
    """One look at the process table, as the family of one daemon."""

    def __init__(self, daemon: Daemon) -> None:
        assert daemon.process is not None
        self.table = procfs.process_table()
        self.supervisor = daemon.process.pid
        self._declared = _declared(daemon)

    def of(self, kind: str) -> list[int]:
        """The pids of a kind of victim."""
        match kind:
            case "supervisor":
                return [self.supervisor]
            case "zygote" | "synchroniser":
                return self._alive(kind)
            case "worker":
                return [pid for pid in self._alive("worker") if self.action_of(pid)]
            case "armed":
                return [pid for pid in self._alive("worker") if not self.action_of(pid)]
            case "script":
                return [child for pid in self.of("worker") for child in self._below(pid)]
            case "child":
                return [child for pid in self.of("script") for child in self._below(pid)]
        raise ValueError(kind)

    def everybody(self) -> list[int]:
        kinds = ("supervisor", "zygote", "synchroniser", "worker", "armed", "script", "child")
        return [pid for kind in kinds for pid in self.of(kind)]

    def runs_below(self, pid: int) -> frozenset[str]:
        """The runs that live in or below a process; all of them for who keeps them all."""
        if pid == self.supervisor:
            below = set(self.of("script"))
        else:
            below = {pid} | procfs.descendants(self.table, [pid])
        marks = (procfs.marks(one) for one in below)
        return frozenset(found.run_id for found in marks if found is not None)

    def action_of(self, pid: int) -> str:
        """The action of a worker, by its title `geosched: ID (TYPE)`; "" where it has none."""
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
        except OSError:
            return ""
        found = re.fullmatch(r"geosched: (\S+) \(\S+\)", title)
        return found[1] if found else ""

    def marked(self, instance: str) -> dict[int, str]:
        """Every living process that carries the mark of this daemon: pid and run."""
        found = {pid: procfs.marks(pid) for pid, one in self.table.items() if not one.ended}
        return {
            pid: marks.run_id
            for pid, marks in found.items()
            if marks is not None and marks.instance.startswith(instance)
        }

    def resources(self) -> Resources:
        status = Path(f"/proc/{self.supervisor}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        zombies = sum(1 for one in self.table.values() if one.ppid == self.supervisor and one.ended)
        descriptors = len(os.listdir(f"/proc/{self.supervisor}/fd"))
        return (descriptors, int(fields["Threads"]), int(fields["VmRSS"].split()[0]), zombies)

    def _alive(self, kind: str) -> list[int]:
        return [pid for pid, declared in self._declared.items() if declared == kind]

    def _below(self, pid: int) -> list[int]:
        return [one.pid for one in self.table.values() if one.ppid == pid and not one.ended]


def send(pid: int, number: int) -> bool:
    """Whether it was still there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def stop_all(pids: list[int]) -> list[int]:
    """SIGSTOP to all; those that were there."""
    return [pid for pid in pids if send(pid, signal.SIGSTOP)]


def statuses(daemon: Daemon, *wanted: str) -> dict[str, tuple[str, str | None]] | None:
    """Status and open run of each action, or None where the daemon does not answer."""
    found: dict[str, tuple[str, str | None]] = {}
    try:
        with Client(daemon.root / "run" / "control.sock", timeout_seconds=3.0) as client:
            cursor = ""
            while True:
                page = client.ask(ListActions(wanted, cursor), ActionsAre)
                for action in page.actions:
                    run = action.run
                    open_run = run.run_id if run is not None and run.ended_at is None else None
                    found[action.id] = (action.execution_status or "NULL", open_run)
                cursor = page.cursor
                if not cursor:
                    return found
    except ClientError:
        return None


def outbox_depth(daemon: Daemon) -> int | None:
    try:
        with Client(daemon.root / "run" / "control.sock", timeout_seconds=3.0) as client:
            return client.ask(GetStatus(), StatusIs).status.outbox.depth
    except ClientError:
        return None


def left_over(daemon: Daemon, instance: str) -> list[int]:
    """What of the daemon still lives: scripts by their mark, its children by their word."""
    return [*_declared(daemon), *Processes(daemon).marked(instance)]


def _declared(daemon: Daemon) -> dict[int, str]:
    """Pid and kind of each living child that told who it is."""
    known = read_identities(Runtime(daemon.root / "run"))
    return {one.identity.pid: one.kind for one in known if procfs.lives(one.identity)}
