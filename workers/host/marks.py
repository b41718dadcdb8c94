"""Marks of scripts: bounded reading of the environments of processes that can be ours.

An environment is as large as its owner likes, and a read of it waits for whatever its memory
waits for. So only processes of users whose scripts may run are read, so many bytes of each, for
so long for each user; and by a process of its own, which is given up where a read hangs.
"""

import logging
import os
import select
import signal
import socket
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NoReturn, Self

import msgspec

from . import procfs
from .files import raise_shortage
from .linux import set_parent_death_signal
from .liveness import AnswerWait

log = logging.getLogger(__name__)

#: A read that did nothing for so long hangs (law 17); it costs its process the look, and no other.
READ_IDLE_SECONDS_MAX = 0.25
READ_CPU_SECONDS_MAX = 5.0
READ_LOOK_MILLISECONDS = 20
#: Of one look, for all processes of one user: beyond it others of that user are not read. A
#: thousand take some 30 ms; the rest is for a slow host (law 17).
USER_SECONDS_MAX = 3.0
#: Of all looks of a `MarkReader`, what reads of the processes of one user may idle: whoever makes
#: them wait could have thrown the marks away as well.
USER_IDLE_SECONDS_MAX = 3.0
#: Processes that are asked for in one message.
BATCH_MAX = 256
#: The ids of our runs are shorter.
RUN_ID_BYTES_MAX = 256
#: A reader that was killed and does not end is left to whoever reaps orphans.
KILLED_MILLISECONDS_MAX = 200
_MESSAGE_BYTES_MAX = 8192
_ENDED = 0

_decode_pids = msgspec.msgpack.Decoder(list[int]).decode
_decode_answer = msgspec.msgpack.Decoder(tuple[str | None, int]).decode


class HungError(Exception):
    """The read of a process's environment hangs, or ended its reader."""


def own_users() -> frozenset[int]:
    """Return the users of the calling process, whose scripts may run under them."""
    return frozenset((os.getuid(), os.geteuid()))


def user_of(pid: int, users: Collection[int]) -> int | None:
    """Return the real user of a process where that is one of `users`, else None.

    The real one, because anybody may execute a set-uid program, which then is root's by its
    effective user; and because what a script of ours executes so is still ours. The owner of
    `/proc/PID` is asked first: it is the effective user, or root where that is another than the
    real one.
    """
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
    except OSError as error:
        raise_shortage(error)
        return None
    if owner not in users:
        return None
    real = procfs.real_user(pid) if owner == 0 else owner
    return real if real in users else None


class MarkReader:
    """Reads the marks of processes of `users`, and of this process's own users, and knows those
    whose instance is one of `instances`.

    It has a process that reads, forked at the first look and anew after each that hung; where
    none can be forked it reads itself. Use it as a context, in one thread.
    """

    def __init__(self, instances: Collection[str], users: Collection[int] = ()) -> None:
        self._instances = frozenset(instances)
        self._users = own_users() | frozenset(users)
        self._hung: set[int] = set()
        self._idle_seconds: defaultdict[int, float] = defaultdict(float)  # by user
        self._reader: _Reader | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def marked(self, pids: Iterable[int]) -> dict[int, str]:
        """Return those of the processes that carry the mark, with their run ids. Raises `OSError`
        where there is no descriptor, or no memory, to look with."""
        return self.marked_of(self.users_of(pids))

    def users_of(self, pids: Iterable[int]) -> dict[int, int]:
        """Return those of the processes that may be ours, with their users."""
        found = ((pid, user_of(pid, self._users)) for pid in pids)
        return {pid: user for pid, user in found if user is not None}

    def marked_of(self, users: Mapping[int, int]) -> dict[int, str]:
        """Return what `marked` does, of processes with their users."""
        of_users: dict[int, list[int]] = {}
        for pid, user in users.items():
            if self._instances and pid not in self._hung and self._has_time(user):
                of_users.setdefault(user, []).append(pid)
        found: dict[int, str] = {}
        for user, theirs in of_users.items():
            found.update(self._marked_of_user(user, theirs))
        return found

    def _marked_of_user(self, user: int, pids: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Yield the marked ones of the processes of one user, within its time."""
        over_monotonic = time.monotonic() + USER_SECONDS_MAX
        rest = list(pids)
        while rest and time.monotonic() < over_monotonic and self._has_time(user):
            batch, rest = rest[:BATCH_MAX], rest[BATCH_MAX:]
            read = 0
            try:
                for run_id, idle_seconds in self._answers(batch):
                    if run_id is not None:
                        yield batch[read], run_id
                    read += 1
                    self._idle_seconds[user] += idle_seconds
                    if time.monotonic() >= over_monotonic or not self._has_time(user):
                        self.close()  # it has answers that nobody will read
                        rest = batch[read:] + rest
                        break
            except HungError:
                hung_monotonic = time.monotonic()
                self.close()
                ended_seconds = time.monotonic() - hung_monotonic
                self._idle_seconds[user] += READ_IDLE_SECONDS_MAX + ended_seconds
                self._hung.add(batch[read])
                log.warning(
                    "Cannot read the environment of process %d: it hangs",
                    batch[read],
                    extra={"event": "environment-hangs"},
                )
                rest = batch[read + 1 :] + rest
        if rest:
            log.warning(
                "Cannot read the environments of %d processes of user %d: no time is left",
                len(rest),
                user,
                extra={"event": "environments-unread"},
            )

    def _has_time(self, user: int) -> bool:
        return self._idle_seconds[user] < USER_IDLE_SECONDS_MAX

    def _answers(self, pids: Sequence[int]) -> Iterator[tuple[str | None, float]]:
        """Yield the run id of each process, None where it is not marked, and for how long the
        reader idled over it. Raises `HungError` for the one that comes next, `OSError`."""
        if self._reader is None:
            try:
                self._reader = _Reader(self._instances)
            except BlockingIOError:  # no process may be forked: the calling one is judged instead
                yield from ((run_of(pid, self._instances), 0.0) for pid in pids)
                return
        try:
            yield from self._reader.ask(pids)
        except OSError:
            self.close()  # it has answers that nobody has read
            raise

    def close(self) -> None:
        """End the process that reads."""
        if self._reader is not None:
            self._reader.end()
            self._reader = None


class _Reader:
    """A process that reads environments. Nothing else of this process is used in it."""

    def __init__(self, instances: Collection[str]) -> None:
        """Fork it. Raises `OSError`, and `BlockingIOError` where there may be no more processes."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            parent = os.getpid()
            try:
                self._pid = os.fork()
            except OSError:
                self._socket.close()
                raise
            if self._pid == 0:
                _read_for(theirs, parent, instances)

    def ask(self, pids: Sequence[int]) -> Iterator[tuple[str | None, float]]:
        """Yield the answer for each process, and for how long it was idle. Raises `HungError` for
        the one that comes next, and `OSError` where the reader could not look."""
        try:
            self._socket.send(msgspec.msgpack.encode(pids))
        except (BrokenPipeError, ConnectionResetError):
            raise HungError from None
        for _ in pids:
            idle_seconds = self._await()
            answer = self._socket.recv(_MESSAGE_BYTES_MAX)
            if not answer:
                raise HungError
            run_id, shortage = _decode_answer(answer)
            if shortage:
                raise OSError(shortage, os.strerror(shortage))
            yield run_id, idle_seconds

    def _await(self) -> float:
        """Wait for an answer; return for how long the reader idled, as far as looks tell."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if poll.poll(READ_LOOK_MILLISECONDS):
            return 0.0
        idle_seconds = 0.0
        awaited = AnswerWait(
            time.monotonic(),
            procfs.activity(self._pid),
            idle_seconds_max=READ_IDLE_SECONDS_MAX,
            cpu_seconds_max=READ_CPU_SECONDS_MAX,
        )
        while not poll.poll(READ_LOOK_MILLISECONDS):
            activity = procfs.activity(self._pid)
            if awaited.hangs(time.monotonic(), activity):
                raise HungError
            if activity and not activity.runnable:
                idle_seconds += READ_LOOK_MILLISECONDS / 1000
        return idle_seconds

    def end(self) -> None:
        os.kill(self._pid, signal.SIGKILL)  # not reaped, so the pid is still its own
        gone = select.poll()
        gone.register(self._socket, 0)  # POLLHUP: the kernel lets go of it
        ended = gone.poll(KILLED_MILLISECONDS_MAX)
        self._socket.close()
        os.waitpid(self._pid, 0 if ended else os.WNOHANG)


def run_of(pid: int, instances: Collection[str]) -> str | None:
    """Return the run of a process, None where it carries no mark of one of `instances`."""
    found = procfs.marks(pid)
    if found is None or found.instance not in instances:
        return None
    ours = found.run_id.isascii() and len(found.run_id) <= RUN_ID_BYTES_MAX
    return found.run_id if ours else None


# --- in the reader ----------------------------------------------------------------------


def _read_for(asked: socket.socket, parent: int, instances: Collection[str]) -> NoReturn:
    """Answer until the parent closes its end, then end this process."""
    try:
        set_parent_death_signal(signal.SIGKILL)
        # The parent's end is this process's, too, so it would never see that closed.
        os.closerange(3, asked.fileno())
        os.closerange(asked.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
        while os.getppid() == parent and (request := asked.recv(_MESSAGE_BYTES_MAX)):
            for pid in _decode_pids(request):
                asked.send(msgspec.msgpack.encode(_answer(pid, instances)))
    finally:
        os._exit(_ENDED)


def _answer(pid: int, instances: Collection[str]) -> tuple[str | None, int]:
    """Return the run of a process, or the error that says that nobody could look."""
    try:
        return run_of(pid, instances), 0
    except OSError as error:
        return None, error.errno or 0
