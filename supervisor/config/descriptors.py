"""Descriptors of the daemon's process: how many its limit allows, and what fits into them. Pure.

libzmq, which workers speak to, ends a process that cannot accept for want of
descriptors (fact Z6); so the daemon admits no more workers and connections than fit.
"""

from typing import NamedTuple

from msgspec.structs import replace

from .sections import Settings

#: Open in an idle daemon without children: 32 by count; and the most that is open for a moment,
#: such as helpers (three each), a child that makes a backup, another zygote, files of `/proc`.
BASE = 64
#: Of a child process: its pidfd, and its connection.
OF_A_CHILD = 2
#: Children besides workers: the synchroniser, the relay of the log.
OTHER_CHILDREN = 2
#: And the helper that is kept while there are runs: what it has open is part of `BASE`, and so
#: would be a worker's in its place.
HELPERS_KEPT = 1
#: Of the workers one in so many, at least one, is none with a run, but leaves or gets ready.
WORKERS_BESIDES_RUNS = 8
#: Connections of the control socket are a quarter of what is left, within these; and one user
#: has half of them.
CONNECTIONS_MIN = 8
CONNECTIONS_MAX = 64
#: The least limit, which serves one run.
OPEN_FILES_MIN = BASE + CONNECTIONS_MIN + OF_A_CHILD * (2 + OTHER_CHILDREN)


def shortage(open_files: int) -> str:
    """Return the reason why a daemon cannot work within this limit, or ""."""
    if open_files >= OPEN_FILES_MIN:
        return ""
    return (
        f"{open_files} open files are too few: one run needs a limit of {OPEN_FILES_MIN}"
        " (ulimit -Hn, LimitNOFILE of systemd)"
    )


class Descriptors(NamedTuple):
    """What a limit of `open_files` leaves room for: children of the zygote, with a run or not,
    runs, and connections of the control socket."""

    open_files: int
    connections: int
    connections_of_user: int
    children: int
    runs: int

    @classmethod
    def within(cls, open_files: int) -> "Descriptors":
        """Share a limit that has no `shortage`."""
        free = open_files - BASE
        connections = min(max(CONNECTIONS_MIN, free // 4), CONNECTIONS_MAX)
        children = (free - connections) // OF_A_CHILD + HELPERS_KEPT
        workers = children - OTHER_CHILDREN - HELPERS_KEPT
        runs = workers - max(1, workers // WORKERS_BESIDES_RUNS)
        return cls(open_files, connections, connections // 2, children, runs)

    def cut(self, settings: Settings) -> Settings:
        """Return the settings with no more runs than fit."""
        asked = settings.daemon.max_running
        if asked <= self.runs:
            return settings
        daemon = replace(settings.daemon, max_running=self.runs)
        return replace(settings, daemon=daemon, max_running_asked=asked)
