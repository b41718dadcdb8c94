"""One cgroup for every worker and its run, where this host lets us make one (fact P5).

A group holds whatever a script starts, even what leaves its session and wipes its
environment. Where none can be made, `kind` is "tree" and groups are None: then `process_tree.py`
alone finds what belongs to a run.
"""

import contextlib
import logging
import os
import signal
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)

CGROUP2, CGROUP1, TREE = "cgroup2", "cgroup1", "tree"


class _Hierarchy(msgspec.Struct, frozen=True):
    """How one kind of cgroup is joined and frozen: the files, and what to write."""

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

    A worker joins when it is armed: moving a process can take the kernel 10 to 20 ms, which
    a script that is due has no time for. What it forks is in from the first instant.
    """

    path: Path
    _hierarchy: _Hierarchy

    def make(self) -> None:
        """Raises `OSError`."""
        self.path.mkdir(mode=0o755, exist_ok=True, parents=True)

    def join(self) -> None:
        """Move this process, of one thread, into it; failing that, its tree still finds it."""
        _write(self.path / self._hierarchy.join_file, "0")

    def leave(self) -> bool:
        """Move this process, all its threads, to where the instance's groups are made.

        Whether it is out: only then is what is done to the group not done to it too.
        """
        if os.getpid() not in self.pids():
            return True
        return _write(self.path.parent.parent / "cgroup.procs", "0")

    def pids(self) -> set[int]:
        """Everything in it and in groups below it; nothing once it is removed."""
        found: set[int] = set()
        for directory, _, _ in os.walk(self.path):
            content = _read(Path(directory, "cgroup.procs"))
            found.update(int(line) for line in content.split())
        return found

    def kill(self) -> None:
        """One round of SIGKILL to everything in it; `pids` tells whether another is due."""
        if _write(self.path / "cgroup.kill", "1"):
            return
        # Frozen, none of them can fork while the others are being killed.
        freeze_file = self.path / self._hierarchy.freeze_file
        _write(freeze_file, self._hierarchy.frozen)
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        _write(freeze_file, self._hierarchy.thawed)

    def remove(self) -> None:
        """Remove it with the groups that its script made in it; harmless where it is not empty."""
        for directory, _, _ in os.walk(self.path, topdown=False):
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                continue
            except OSError as error:
                log.debug("Cannot remove the cgroup %s: %s", directory, error)
                return


class Containment(msgspec.Struct, frozen=True):
    """Where the groups of one instance are; `base` is None for "tree"."""

    kind: str
    base: Path | None = None
    _hierarchy: _Hierarchy | None = None

    @staticmethod
    def detect(instance: str) -> "Containment":
        """The best this host lets us use, for the runs of `instance`.

        Tried by making and removing a group. The daemon and its children find the same.
        """
        name = "geosched-" + "".join(c if c.isalnum() else "-" for c in instance)[:100]
        for hierarchy, own in _own_groups():
            if _usable(own / name / f"probe-{os.getpid()}", hierarchy):
                return Containment(hierarchy.kind, own / name, hierarchy)
        return Containment(TREE)

    def group(self, worker: str) -> Group | None:
        """The group of a worker, made or not."""
        if self.base is None or self._hierarchy is None:
            return None
        return Group(self.base / worker, self._hierarchy)

    def leftovers(self) -> list[Group]:
        """The groups that are there now: of runs that live, or were never cleaned up."""
        if self.base is None or self._hierarchy is None:
            return []
        try:
            with os.scandir(self.base) as entries:
                names = [entry.name for entry in entries if entry.is_dir()]
        except FileNotFoundError:
            return []
        return [Group(self.base / name, self._hierarchy) for name in names]

    def remove(self) -> None:
        """Remove what is empty: the daemon leaves."""
        if self.base is None or self._hierarchy is None:
            return
        for group in self.leftovers():
            group.remove()
        Group(self.base, self._hierarchy).remove()


def _own_groups() -> list[tuple[_Hierarchy, Path]]:
    """This process's own directory in each hierarchy that would do, the best first."""
    memberships = [line.split(":", 2) for line in _read(Path("/proc/self/cgroup")).splitlines()]
    own = {controllers: path for _, controllers, path in memberships}
    found: list[tuple[_Hierarchy, Path]] = []
    for line in _read(Path("/proc/self/mountinfo")).splitlines():
        before, after = (part.split() for part in line.split(" - ", 1))
        root, mounted_at = before[3], Path(before[4])
        if after[0] == "cgroup2" and "" in own:
            found.insert(0, (_UNIFIED, _below(mounted_at, root, own[""])))
        elif after[0] == "cgroup" and "freezer" in after[2].split(","):
            path = next((own[names] for names in own if "freezer" in names.split(",")), "/")
            found.append((_FREEZER, _below(mounted_at, root, path)))
    return found


def _below(mounted_at: Path, root: str, path: str) -> Path:
    """`path` as seen through a mount of `root` (a container mounts a part of the whole)."""
    inside = path[len(root) :] if root != "/" and path.startswith(root) else path
    return mounted_at / inside.lstrip("/")


def _usable(probe: Path, hierarchy: _Hierarchy) -> bool:
    """Whether a group can be made, joined and killed; the directory above it stays."""
    try:
        probe.mkdir(parents=True, exist_ok=True)
        needed = (probe / hierarchy.join_file, probe / hierarchy.freeze_file)
        return all(os.access(file, os.W_OK) for file in needed)
    except OSError:
        return False
    finally:
        if probe.exists():
            probe.rmdir()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _write(path: Path, text: str) -> bool:
    """Whether it was written: a group may be gone, a kernel too old."""
    try:
        with path.open("r+") as file:
            file.write(text)
    except OSError:
        return False
    return True
