"""The children of a daemon under test, by what they are."""

import time
from pathlib import Path

from geosched.workers.host import procfs
from geosched.workers.host.procfs import children as children_of

from .daemon import Daemon


def zygote(daemon: Daemon) -> int:
    assert daemon.process is not None
    return next(pid for pid in children_of(daemon.process.pid) if _is(pid, b"zygote"))


def synchronisers(daemon: Daemon) -> list[int]:
    return [pid for pid in children_of(zygote(daemon)) if _is(pid, b"synchroniser")]


def log_relay(daemon: Daemon) -> int | None:
    relays = (pid for pid in children_of(zygote(daemon)) if _is(pid, b"geosched: log"))
    return next(relays, None)


def helpers(daemon: Daemon) -> list[int]:
    return [pid for pid in children_of(zygote(daemon)) if _is(pid, b"helper")]


def armed_workers(daemon: Daemon) -> list[int]:
    """Workers without a run: they have no title of a run, and no script."""
    workers = [pid for pid in children_of(zygote(daemon)) if _is(pid, b"geosched: worker")]
    return [pid for pid in workers if children_of(pid) in ([], [next_script(pid)])]


def next_script(worker: int) -> int | None:
    """What a worker whose run is near has forked ahead."""
    waiting = (pid for pid in children_of(worker) if _is(pid, b"geosched: next script"))
    return next(waiting, None)


def prepared_workers(daemon: Daemon) -> list[tuple[int, int]]:
    """Armed workers that have forked ahead, and what."""
    found = ((worker, next_script(worker)) for worker in armed_workers(daemon))
    return [(worker, ahead) for worker, ahead in found if ahead is not None]


def is_idle(pid: int) -> bool:
    """Whether a process did nothing for a moment: it waits."""

    def switches() -> list[str]:
        status = Path(f"/proc/{pid}/status").read_text()
        return [line for line in status.splitlines() if "ctxt_switches" in line]

    before = switches()
    time.sleep(0.3)  # the length of the moment
    return switches() == before


def state_of(pid: int) -> str:
    """One letter: T is stopped, D waits for a disk. "" for a process that is gone."""
    found = procfs.stat(pid)
    return found.state if found is not None else ""


def _is(pid: int, word: bytes) -> bool:
    try:
        return word in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
