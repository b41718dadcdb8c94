"""Scripts that do what they can to outlive their stop: `python escaping.py KIND LOCK`.

Each shares a lock on the file LOCK with everything that it forks: whoever cannot have the
lock alone knows that something of the script lives, whatever name, parent, session, user
or environment that has by then. Each ends of itself after a while, so that a test that
fails leaves nothing for long.
"""

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

LIFE_SECONDS = 90
#: A storm loads the host, so it is shorter; and it never has more children alive than that.
STORM_SECONDS = 25
CHILDREN_MAX = 20
#: Far shorter than one look at the process table, and all that a shared host can bear.
GENERATION_SECONDS = 0.001
NOBODY = 65534


def is_held(lock: Path) -> bool:
    """Whether anything that a script began is alive."""
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def holders(lock: Path) -> list[int]:
    """What has the lock open, to end what a test could not."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _opened(pid, lock)]


def _opened(pid: int, lock: Path) -> bool:
    try:
        return any(entry.readlink() == lock for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False  # it ended meanwhile


def hold() -> None:
    """Shared, so that the test may look while scripts begin."""
    descriptor = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(descriptor, True)
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def stay() -> None:
    signal.alarm(LIFE_SECONDS)
    while True:
        signal.pause()


def clear_environment() -> None:
    """An exec, then all steps anew: so it has to be the first."""
    if os.environ.pop("GEOSCHED_RUN_ID", None):
        os.execve(sys.executable, [sys.executable, *sys.argv, "again"], {})


def ignore_stop() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def daemonise() -> None:
    """As the books say: a session of its own, and a parent that is gone."""
    os.setsid()
    if os.fork():
        os._exit(0)


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def rename() -> None:
    """Over its arguments and its environment."""
    from setproctitle import setproctitle

    setproctitle("kworker/0:1")


def close_all() -> None:
    """Its lock is among them, so it takes another."""
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))
    hold()


def become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def comet(move: Callable[[], object] = int) -> None:
    """Each process lives only until it has forked the next, which moves on."""
    end = time.monotonic() + STORM_SECONDS
    while time.monotonic() < end:
        time.sleep(GENERATION_SECONDS)
        if os.fork():
            os._exit(0)
        move()


def comet_of_sessions() -> None:
    comet(os.setsid)


def shower() -> None:
    """Short-lived children, without a break."""
    end = time.monotonic() + STORM_SECONDS
    for alive in range(10**9):
        if os.fork() == 0:
            time.sleep(10 * GENERATION_SECONDS)
            os._exit(0)
        if alive >= CHILDREN_MAX:
            os.wait()
        if time.monotonic() > end:
            return


KINDS: dict[str, tuple[Callable[[], object], ...]] = {
    "deaf": (ignore_stop,),
    "new-session": (os.setsid,),
    "daemonised": (ignore_stop, daemonise),
    "stopped": (stop_itself,),
    "renamed": (ignore_stop, rename),
    "renamed-daemon": (ignore_stop, daemonise, rename),
    "closed": (close_all,),
    "bare": (clear_environment, os.setsid),
    "nobody": (become_nobody,),
    "bare-daemon-of-nobody": (clear_environment, ignore_stop, daemonise, become_nobody),
    "comet": (ignore_stop, comet),
    "comet-of-sessions": (ignore_stop, comet_of_sessions),
    "shower": (ignore_stop, shower),
}


def main() -> None:
    """The steps are taken by a child; the script itself stays, so that its run goes on."""
    _, kind, _, *again = sys.argv
    if not again:
        hold()
        if os.fork():
            stay()
    *steps, last = KINDS[kind]
    for step in steps:
        step()
    Path(f"{sys.argv[2]}.ready").touch()  # the last may not return, or take the right to it
    last()
    stay()


if __name__ == "__main__":
    main()
