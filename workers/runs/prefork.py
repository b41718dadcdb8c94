"""A process forked before it is known which script it will be: it waits, then becomes it.

Both ends: `Preforked` is the worker's, the rest runs in the child, between fork and exec,
where `subprocess` has no hook for what must be done (law 12). What a script is refused for
before that is `launch.py`'s.
"""

import errno
import logging
import os
import pickle
import resource
import select
import signal
import socket
import time
from collections.abc import Mapping
from typing import NoReturn

import msgspec
from msgspec.structs import replace
from setproctitle import setproctitle

from ...ipc.messages.runs import Conditions
from ..host import execution
from ..host.execution import ConditionError, Person
from ..host.linux import HELD_AT_EXEC, hold_at_exec, let_run, set_parent_death_signal

log = logging.getLogger(__name__)

#: An exec that takes longer (a file server that hangs) counts as a start; if it fails
#: later on, the script's exit code says so.
EXEC_SECONDS_MAX = 5.0
EXEC_LOOK_MILLISECONDS = 20
#: A script is not ordered longer than this before its instant.
AHEAD_SECONDS_MAX = 2.0
#: Where the child keeps its end of the channel, behind standard error.
_CHANNEL_FD = 3
_CANNOT_EXEC = 127
#: What is sent along: what to become, its standard input, the lock of its run.
_DESCRIPTORS_MAX = 3
_ERROR_BYTES_MAX = 256
_BEGINS = "at "
#: All that can be set, with the names by which to do it.
_SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


class Calling(msgspec.Struct, frozen=True):
    """What the child is to become, and not before the wall clock reads `not_before_us`: it
    is to be `held` before its first instruction until somebody lets it run, or waits.
    `open_files` are its limits, soft and hard, or None to leave them as they are."""

    program: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    who: Person | None
    conditions: Conditions
    open_files: tuple[int, int] | None
    not_before_us: int = 0
    held: bool = False


class Preforked:
    """The leader of a session of its own that waits for its calling, and dies with us.

    `output` is the reading end of what will be its standard output and error; `began_us`
    is when it became the script, by the wall clock, unless it is `held` before that.
    """

    def __init__(self) -> None:
        """Fork. Raises `OSError`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            read, write = os.pipe()
            worker = os.getpid()
            try:
                self.pid = os.fork()
                if self.pid == 0:
                    _live(theirs.fileno(), write, worker)
            except OSError:
                os.close(read)
                raise
            finally:
                os.close(write)
            try:
                self.pidfd = os.pidfd_open(self.pid)
                self._channel = socket.socket(fileno=ours.detach())
            except OSError:
                os.close(read)
                self._end()
                raise
        self.output = read
        self.held = False
        self.began_us = 0
        self._spent = False

    def become(
        self, calling: Calling, given: int, lock: int | None, *, still_seconds: float
    ) -> tuple[int, str] | None:
        """Have it become a script whose standard input is `given`, and wait until it has.

        It is then `held`, if that was wanted and can be done here; else it has begun at its
        instant, and we have kept still until `still_seconds` after that. The error that
        kept it from its exec, if one did, with the key of the configuration it is about, or
        "". `lock` is held by it until then. Raises `ConnectionError` where it was killed
        before it could read any of this, `OSError`.
        """
        if calling.held and not self._hold():
            calling = replace(calling, held=False)
        told = _in_memory("geosched-calling", pickle.dumps(calling))
        try:
            held = [told, given] if lock is None else [told, given, lock]
            socket.send_fds(self._channel, [b"!"], held, socket.MSG_NOSIGNAL)
        finally:
            os.close(told)
        if not calling.held and calling.not_before_us * 1000 > time.time_ns():
            wait_until(calling.not_before_us + round(still_seconds * 1e6))
        error = self._exec_error(calling)
        if error is not None:
            wait_until(calling.not_before_us)  # it could not be started then: not before
        elif calling.held:
            self.held = True
        else:
            self.began_us = self.began_us or time.time_ns() // 1000
        return error

    def _hold(self) -> bool:
        try:
            hold_at_exec(self.pid)
        except OSError as error:
            log.debug("Cannot hold a script before its first instruction: %s", error)
            return False
        return True

    def _exec_error(self, calling: Calling) -> tuple[int, str] | None:
        """It says when it is about to become the script; its end of the channel closes when
        it has."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        deadline = time.monotonic() + EXEC_SECONDS_MAX
        while time.monotonic() < deadline:
            if not poll.poll(EXEC_LOOK_MILLISECONDS):
                if calling.held and (status := trapped(self.pid)) not in (None, HELD_AT_EXEC):
                    let_run(self.pid, status)  # by a signal that came before its exec
                continue
            told = self._channel.recv(_ERROR_BYTES_MAX).decode()
            if not told:
                return None
            if not told.startswith(_BEGINS):
                number, _, key = told.partition(" ")
                return int(number), key
            self.began_us = int(told.removeprefix(_BEGINS))
        return None

    def let_go(self) -> None:
        """It has become the script, whose `pid`, `pidfd` and `output` they are now."""
        self._spent = True
        self._channel.close()

    def discard(self) -> None:
        """It is not needed, or has failed: nothing is left of it. Harmless once it is spent."""
        if self._spent:
            return
        self._spent = True
        self._channel.close()
        self._end()
        os.close(self.pidfd)
        os.close(self.output)

    def _end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)  # not reaped yet, so nobody else's pid
        while os.WIFSTOPPED(os.waitpid(self.pid, 0)[1]):
            pass  # it was held when it was killed: its end comes next


def trapped(child: int) -> int | None:
    """The `si_status` of a child that is traced and stands still; None where it does not."""
    found = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return found.si_status if found is not None and found.si_code == os.CLD_TRAPPED else None


def memory(content: bytes) -> int:
    """A descriptor that reads `content`, then end of file, and needs nobody to write it.
    Raises `OSError`."""
    return _in_memory("geosched-input", content)


def _in_memory(name: str, content: bytes) -> int:
    descriptor = os.memfd_create(name)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


# --- in the child -----------------------------------------------------------------------


def _live(channel: int, output: int, worker: int) -> NoReturn:
    """Wait, become the script, or tell why not. Never returns, whatever happens."""
    try:
        os.setsid()
        _die_with(worker)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(channel, _CHANNEL_FD, inheritable=False)
        os.closerange(_CHANNEL_FD + 1, os.sysconf("SC_OPEN_MAX"))
        setproctitle("geosched: next script")
        _become(socket.socket(fileno=_CHANNEL_FD), worker)
    finally:
        os._exit(_CANNOT_EXEC)


def _become(channel: socket.socket, worker: int) -> None:
    # As long as its worker lives, which takes it along when it ends.
    _, descriptors, _, _ = socket.recv_fds(channel, 1, _DESCRIPTORS_MAX)
    if not descriptors:
        return  # its worker leaves
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)  # the library drops the flag that would do so
    told, given = descriptors[:2]
    with os.fdopen(told, "rb") as file:
        calling: Calling = pickle.load(file)
    try:
        os.dup2(given, 0)
        _take_on(calling, worker)
        if not calling.held:
            wait_until(calling.not_before_us)
            channel.send(f"{_BEGINS}{time.time_ns() // 1000}".encode())
        os.execve(calling.program, calling.command, calling.environment)
    except ConditionError as error:
        channel.send(f"{error.errno} {error.key}".encode())
    except OSError as error:
        channel.send(str(error.errno).encode())
    except MemoryError:
        channel.send(f"{errno.ENOMEM} limits.address_space".encode())


def wait_until(wall_us: int, monotonic_seconds_max: float | None = None) -> None:
    """On the wall clock, for it decides; on the other one not for long, should that be set."""
    deadline = time.monotonic() + AHEAD_SECONDS_MAX
    if monotonic_seconds_max is not None:
        deadline = min(deadline, monotonic_seconds_max)
    while (left := wall_us / 1e6 - time.time()) > 0 and time.monotonic() < deadline:
        time.sleep(min(left, AHEAD_SECONDS_MAX))


def _take_on(calling: Calling, worker: int) -> None:
    if calling.open_files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, calling.open_files)
    execution.limit(calling.conditions)
    if calling.who is not None:
        execution.give(1, calling.who)  # so that it can open /dev/stdout
        execution.become(calling.who)
        _die_with(worker)  # becoming somebody else has called that off (fact P3)
    execution.settle(calling.conditions)
    execution.limit_address_space(calling.conditions)


def _die_with(worker: int) -> None:
    set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != worker:
        os._exit(_CANNOT_EXEC)  # it died before it could take us with it (fact P3)
