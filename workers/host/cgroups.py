"""Control groups: one for each worker and its run, where the host allows it (fact P5).

A group holds all that a script starts, even processes that leave its session and wipe their
environment. Where none can be made, `kind` is "tree" and groups are None: then `process_tree.py`
alone finds the processes of a run.
"""

import fcntl
import logging
import os
import re
import signal
from pathlib import Path

import msgspec

from . import procfs
from .files import raise_shortage, read_all
from .procfs import Stat
from .signalling import signal_process

log = logging.getLogger(__name__)

CGROUP2, CGROUP1, TREE = "cgroup2", "cgroup1", "tree"


#: The directories of instances, as `detect` names them by boot and place.
_BASE_NAME = re.compile(r"geosched-[0-9a-f-]{36}-[0-9a-f]{12}")


class _Hierarchy(msgspec.Struct, frozen=True):
    """The files by which a kind of cgroup is joined and frozen, and their values."""

    kind: str
    join_file: str
    freeze_file: str
    frozen: str
    thawed: str


_UNIFIED = _Hierarchy(CGROUP2, "cgroup.procs", "cgroup.freeze", "1", "0")
# Moving the one thread of a fresh fork costs 0.4 ms, moving a process 10 to 20 ms (an RCU
# grace period in the kernel). The unified hierarchy does not offer the choice.
_FREEZER = _Hierarchy(CGROUP1, "tasks", "freezer.state", "FROZEN", "THAWED")


class Group(msgspec.Struct, frozen=True):
    """The cgroup of one worker and its run.

    A worker joins it when it is armed: moving a process can take the kernel 10 to 20 ms, too
    long for a script that is due. Its forks are in the group from their first instant.
    """

    directory: str
    _hierarchy: _Hierarchy

    def make(self) -> None:
        """Make its directory. Raises `OSError`."""
        try:
            os.mkdir(self.directory, 0o755)
        except OSError:  # it is there, or the one above it is not
            os.makedirs(self.directory, 0o755, exist_ok=True)

    def join(self) -> None:
        """Move this process, which has one thread, into it. Where that fails, the run is still
        found by its tree."""
        _write(f"{self.directory}/{self._hierarchy.join_file}", "0")

    def leave(self) -> bool:
        """Move this process, with all its threads, to the group above those of the instance.
        True if it is out: only then is it spared by a `kill` of the group.
        """
        if os.getpid() not in self.pids():
            return True
        above = os.path.dirname(os.path.dirname(self.directory))
        return _write(f"{above}/cgroup.procs", "0")

    def pids(self) -> set[int]:
        """Return all processes in it and in groups below it; none once it is removed. Raises
        `OSError` where it cannot be looked at."""
        found: set[int] = set()
        rest = [self.directory]
        while rest:
            directory = rest.pop()
            try:
                with os.scandir(directory) as entries:
                    rest += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
            except OSError as error:
                raise_shortage(error)
            found.update(map(int, _read(f"{directory}/cgroup.procs").split()))
        return found

    def _members(self) -> list[Stat]:
        """Return the processes in it. A pid that was looked up and is in it afterwards was not
        another's meanwhile, or its start has changed by then, which `signal_process` sees."""
        known = [procfs.stat(pid) for pid in self.pids()]
        still = self.pids()
        return [found for found in known if found is not None and found.pid in still]

    def kill(self) -> None:
        """Do one round of SIGKILL to the processes in it. By itself this does not end all of them,
        not even with `cgroup.kill` (fact P5): callers signal the members as well, and repeat both
        until `pids` is empty."""
        if _write(f"{self.directory}/cgroup.kill", "1"):
            return
        # Frozen, no process can fork while the others are killed.
        freeze_file = f"{self.directory}/{self._hierarchy.freeze_file}"
        _write(freeze_file, self._hierarchy.frozen)
        for member in self._members():
            signal_process(member, signal.SIGKILL)
        _write(freeze_file, self._hierarchy.thawed)

    def remove(self) -> None:
        """Remove it and the groups that its script made in it. Harmless where it is not empty."""
        for directory, _, _ in os.walk(self.directory, topdown=False):
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                continue
            except OSError as error:
                log.debug("Cannot remove the cgroup %s: %s", directory, error)
                return


class Containment(msgspec.Struct, frozen=True):
    """The place of an instance's groups. `base` is None for kind "tree"."""

    kind: str
    base: Path | None = None
    _hierarchy: _Hierarchy | None = None

    @staticmethod
    def detect(instance: str) -> "Containment":
        """Choose the best kind that the host allows, by making and removing a group. The daemon
        and its children choose the same.
        """
        name = "geosched-" + "".join(c if c.isalnum() else "-" for c in instance)[:100]
        for hierarchy, own in _own_groups():
            if _usable(own / name / f"probe-{os.getpid()}", hierarchy):
                return Containment(hierarchy.kind, own / name, hierarchy)
        return Containment(TREE)

    def group(self, worker: str) -> Group | None:
        """Return the group of a worker, whether made yet or not; None for kind "tree"."""
        if self.base is None or self._hierarchy is None:
            return None
        return Group(f"{self.base}/{worker}", self._hierarchy)

    def leftovers(self) -> list[Group]:
        """Return the groups that exist: of runs that live, or were never cleaned up."""
        if self.base is None or self._hierarchy is None:
            return []
        try:
            with os.scandir(self.base) as entries:
                names = [entry.name for entry in entries if entry.is_dir()]
        except FileNotFoundError:
            return []
        return [Group(f"{self.base}/{name}", self._hierarchy) for name in names]

    def hold(self) -> int | None:
        """Show other daemons that this instance lives, until the descriptor is closed; None where
        that cannot be done (fact P31). Then its groups are safe only while they have processes."""
        if self.base is None:
            return None
        try:
            self.base.mkdir(exist_ok=True)
            self.base.chmod(0o711)  # others cannot open it, and hold its lock
            return _locked(self.base, fcntl.LOCK_SH)
        except OSError as error:
            log.warning("Cannot lock the cgroup %s: %s", self.base, error)
            return None

    def remove_abandoned(self) -> None:
        """Remove the empty groups of other instances, whose daemons were killed. A living one
        holds its own (`hold`)."""
        if self.base is None or self._hierarchy is None:
            return
        for name in sorted(os.listdir(self.base.parent)):
            if not _BASE_NAME.fullmatch(name) or name == self.base.name:
                continue
            other = Containment(self.kind, self.base.parent / name, self._hierarchy)
            try:
                descriptor = _locked(self.base.parent / name, fcntl.LOCK_EX)
            except OSError as error:
                log.debug("Left the cgroup %s: %s", name, error)
                continue
            other.remove()
            os.close(descriptor)

    def remove(self) -> None:
        """Remove the empty groups and their directory, when the daemon leaves."""
        if self.base is None or self._hierarchy is None:
            return
        for group in self.leftovers():
            group.remove()
        Group(str(self.base), self._hierarchy).remove()


def hierarchies() -> list[str]:
    """Return the kinds of the hierarchies that this process is in, the best first, whether it may
    make groups there or not."""
    return [hierarchy.kind for hierarchy, _ in _own_groups()]


def _own_groups() -> list[tuple[_Hierarchy, Path]]:
    """Return this process's own directory in each usable hierarchy, the best first."""
    memberships = [line.split(":", 2) for line in _read("/proc/self/cgroup").splitlines()]
    own = {controllers: path for _, controllers, path in memberships}
    found: list[tuple[_Hierarchy, Path]] = []
    for line in _read("/proc/self/mountinfo").splitlines():
        before, after = (part.split() for part in line.split(" - ", 1))
        root, mounted_at = before[3], Path(before[4])
        if after[0] == "cgroup2" and "" in own:
            found.insert(0, (_UNIFIED, _below(mounted_at, root, own[""])))
        elif after[0] == "cgroup" and "freezer" in after[2].split(","):
            path = next((own[names] for names in own if "freezer" in names.split(",")), "/")
            found.append((_FREEZER, _below(mounted_at, root, path)))
    return found


def _below(mounted_at: Path, root: str, path: str) -> Path:
    """Translate a path of the hierarchy to the mount of `root`: a container mounts a part of it."""
    inside = path[len(root) :] if root != "/" and path.startswith(root) else path
    return mounted_at / inside.lstrip("/")


def _usable(probe: Path, hierarchy: _Hierarchy) -> bool:
    """A group can be made, joined and frozen here. The directory above it is left in place."""
    try:
        probe.mkdir(parents=True, exist_ok=True)
        needed = (probe / hierarchy.join_file, probe / hierarchy.freeze_file)
        return all(os.access(file, os.W_OK) for file in needed)
    except OSError:
        return False
    finally:
        if probe.exists():
            probe.rmdir()


def _locked(directory: Path, operation: int) -> int:
    """Open and lock a directory; do not wait. Raises `OSError`."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(directory, flags)
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _read(path: str) -> str:
    """Return the text of a file; "" where it cannot be read. Raises `OSError` where there is no
    descriptor to read it with."""
    try:
        return os.fsdecode(read_all(path))
    except OSError as error:
        raise_shortage(error)
        return ""


def _write(path: str, text: str) -> bool:
    """Write to a file. False where that fails: a group may be gone, a kernel too old."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True
