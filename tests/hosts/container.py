"""A tree booted by its own init in systemd-nspawn: a host without a kernel of its own."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from support.wait import wait_for

from .commands import Done
from .report import CommandError
from .trees import PATH

BOOT_SECONDS_MAX = 60
POWER_OFF_SECONDS_MAX = 120
_ENVIRONMENT = ("env", "-i", PATH, "HOME=/root", "TERM=dumb", "LC_ALL=C.UTF-8")
#: Enter the cgroup of the host's init, so that what is started there is not in one of ours.
_JOIN = 'if [ -n "$1" ]; then echo $$ >"$1"; fi; shift; exec "$@"'


class Container:
    """A host that is on or off. `init` is what is executed as process 1, in place of its own."""

    def __init__(self, tree: Path, name: str, log: Path, init: tuple[str, ...] = ()) -> None:
        self.tree = tree
        self._name = name
        self._log = log
        self._init = init
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def boot(self) -> float:
        """Begin to boot; return the seconds until there is a process 1."""
        began_monotonic = time.monotonic()
        command = (
            *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network"),
            *("--console=pipe", "--resolv-conf=off", "--timezone=off", "--link-journal=no"),
            *("--kill-signal=SIGRTMIN+3", f"--machine={self._name}", f"--directory={self.tree}"),
            *(self._init or ("--boot",)),
        )
        with self._log.open("ab") as log:
            self._nspawn = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        self._leader = wait_for(self._find_leader, seconds=BOOT_SECONDS_MAX, what="a process 1")
        return time.monotonic() - began_monotonic

    def _find_leader(self) -> int:
        assert self._nspawn is not None
        assert self._nspawn.poll() is None, self._log.read_text(errors="replace")[-1500:]
        for child in children(self._nspawn.pid):
            for pid in (child, *children(child)):
                if is_first(pid):
                    return pid
        return 0

    def ask(
        self, command: str, *, seconds: float = 60, env: Mapping[str, str] | None = None
    ) -> Done:
        """Run a shell command on the host, whatever it makes of that."""
        variables = [f"{name}={value}" for name, value in (env or {}).items()]
        enter = ("nsenter", f"--target={self._leader}", "-m", "-u", "-i", "-n", "-p", "-C", "--")
        shell = (*_ENVIRONMENT, *variables, "/bin/sh", "-c", command)
        try:
            return subprocess.run(
                ["sh", "-c", _JOIN, "sh", self._members(), *enter, *shell],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            said = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else ""
            raise AssertionError(f"{command!r} took more than {seconds} s: {said}") from None

    def run(
        self, command: str, *, seconds: float = 60, env: Mapping[str, str] | None = None
    ) -> str:
        """What it said; raises `CommandError` where it failed."""
        done = self.ask(command, seconds=seconds, env=env)
        if done.returncode:
            done.args = command
            raise CommandError(done)
        return done.stdout

    def _members(self) -> str:
        """The file by which a process joins the cgroup of the host's process 1; "" without one."""
        for line in Path(f"/proc/{self._leader}/cgroup").read_text().splitlines():
            number, _, path = line.split(":", 2)
            if number == "0":
                for root in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
                    members = Path(f"{root}{path}/cgroup.procs")
                    if members.exists():
                        return str(members)
        return ""

    def power_off(self, command: str = "poweroff") -> float:
        """Power off in order; return the seconds that it took."""
        assert self._nspawn is not None
        began_monotonic = time.monotonic()
        self.ask(f"{command} >/dev/null 2>&1 &")
        try:
            self._nspawn.wait(POWER_OFF_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.cut()
            raise AssertionError(f"not off within {POWER_OFF_SECONDS_MAX} s") from None
        self._nspawn = None
        return time.monotonic() - began_monotonic

    def cut(self) -> None:
        """End all of it at once, as a power cut does; what is on its disk stays."""
        if self._nspawn is None:
            return
        if is_first(self._leader):
            os.kill(self._leader, signal.SIGKILL)
        try:
            self._nspawn.wait(20)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait(20)
        self._nspawn = None


@contextmanager
def container(tree: Path, name: str, log: Path, init: tuple[str, ...] = ()) -> Iterator[Container]:
    made = Container(tree, name, log, init)
    try:
        yield made
    finally:
        made.cut()


def children(pid: int) -> list[int]:
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []  # it is gone


def is_first(pid: int) -> bool:
    """Whether a process is the first of a PID namespace of its own, and no part of nspawn."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    numbers = fields.get("NSpid", "").split()
    name = fields.get("Name", "")
    return len(numbers) > 1 and numbers[-1] == "1" and "nspawn" not in name and name[:3] != "(sd"
