"""A process forked ahead of its run, which later executes the run's script (law 12).

`become_script` and `Preforked` are the worker's end. The rest runs in the child, between fork
and exec, where `subprocess` has no hook for what must be done. `launch.py` refuses scripts
that cannot be started before any of this.
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
from typing import NamedTuple, NoReturn

import msgspec
from msgspec.structs import replace
from setproctitle import setproctitle

from ...ipc.messages.runs import Conditions
from ..host import execution
from ..host.execution import ConditionError, Credentials
from ..host.files import in_memory
from ..host.linux import HELD_AT_EXEC, hold_at_exec, let_run, set_parent_death_signal
from ..host.procfs import identity
from ..runfiles.run_lock import NotedScript, note_script

log = logging.getLogger(__name__)

#: An exec that takes longer (a file server that hangs) counts as a start; should it fail
#: later, the script's exit code says so.
EXEC_SECONDS_MAX = 5.0
EXEC_LOOK_MILLISECONDS = 20
#: A script is ordered at most this long before its instant.
AHEAD_SECONDS_MAX = 2.0
#: The child's end of the channel, next after standard error.
_CHANNEL_FD = 3
_CANNOT_EXEC = 127
#: Sent to the child: its `ExecRequest`, its standard input, the lock of its run.
_DESCRIPTORS_MAX = 3
_ERROR_BYTES_MAX = 256
_BEGINS = "at "
#: All signals whose disposition can be set.
_SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_NOT_PERMITTED = ((errno.EPERM, ""), (errno.EACCES, ""))


class ExecError(NamedTuple):
    """A failure on the way to the exec. `key` names the setting it is about, "" for the exec
    itself; `number` is an errno, 0 for a value out of range."""

    number: int
    key: str


class ExecRequest(msgspec.Struct, frozen=True):
    """A program to execute, and the state its process is to be in by then.

    It does not begin before the wall clock reads `not_before_us`: until then it is `held`
    before its first instruction, or else its process waits before the exec. The worker then
    keeps still for `still_seconds`. `credentials` None leaves user and groups, `open_files`
    None the limits (soft, hard) as they are.
    """

    program: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    credentials: Credentials | None
    conditions: Conditions
    open_files: tuple[int, int] | None
    not_before_us: int
    still_seconds: float
    held: bool


class Preforked:
    """The leader of a session of its own that waits for its `ExecRequest`, and dies with the
    worker.

    `output` is the reading end of its standard output and error; `began_us` is the wall-clock
    instant of its exec, 0 before that and while it is `held`.
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
        self._identity = identity(self.pid)
        self.output = read
        self.held = False
        self.began_us = 0
        self._spent = False

    def become(self, request: ExecRequest, stdin: int, lock: int | None) -> ExecError | None:
        """Have it execute a program with `stdin` as standard input, and wait for the exec.

        Afterwards it is `held`, if that was requested and is possible here; else it began at
        its instant, and `still_seconds` have passed since. Returns the error that prevented
        the exec, if one did. The child holds `lock` until the exec, and is noted in its file
        before. Where this fails, nothing is left of the child. Raises `ConnectionError` where
        the child was killed before it could read the request, `OSError`.
        """
        if lock is not None and self._identity is not None:
            user = os.geteuid() if request.credentials is None else request.credentials.uid
            note_script(lock, NotedScript(self._identity, user))
        try:
            error = self._hand_over(request, stdin, lock)
        except OSError:
            self.discard()
            raise
        if error is None:
            self._spent = True  # `pid`, `pidfd` and `output` are the script's now
            self._channel.close()
        else:
            self.discard()
        return error

    def _hand_over(self, request: ExecRequest, stdin: int, lock: int | None) -> ExecError | None:
        if request.held and not self._hold():
            request = replace(request, held=False)
        told = in_memory("geosched-request", pickle.dumps(request))
        try:
            descriptors = [told, stdin] if lock is None else [told, stdin, lock]
            socket.send_fds(self._channel, [b"!"], descriptors, socket.MSG_NOSIGNAL)
        finally:
            os.close(told)
        if not request.held and request.not_before_us * 1000 > time.time_ns():
            wait_until(request.not_before_us + round(request.still_seconds * 1e6))
        error = self._exec_error(request)
        if error is not None:
            wait_until(request.not_before_us)  # a failed start, too, is not told earlier
        elif request.held:
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

    def _exec_error(self, request: ExecRequest) -> ExecError | None:
        """Wait for the exec: the child sends the instant before it, and its end of the channel
        closes with it."""
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        deadline_monotonic = time.monotonic() + EXEC_SECONDS_MAX
        while time.monotonic() < deadline_monotonic:
            if not poll.poll(EXEC_LOOK_MILLISECONDS):
                if request.held and (status := trapped(self.pid)) not in (None, HELD_AT_EXEC):
                    let_run(self.pid, status)  # trapped by a signal that came before its exec
                continue
            told = self._channel.recv(_ERROR_BYTES_MAX).decode()
            if not told:
                return None
            if not told.startswith(_BEGINS):
                number, _, key = told.partition(" ")
                return ExecError(int(number), key)
            self.began_us = int(told.removeprefix(_BEGINS))
        return None

    def discard(self) -> None:
        """End it: it is not needed, or has failed. Does nothing once it has become the script."""
        if self._spent:
            return
        self._spent = True
        self._channel.close()
        self._end()
        os.close(self.pidfd)
        os.close(self.output)

    def _end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)  # not reaped, so the pid is still its own
        while os.WIFSTOPPED(os.waitpid(self.pid, 0)[1]):
            pass  # it was held when it was killed; its end is reported next


def become_script(
    request: ExecRequest, standard_input: bytes, preforked: Preforked | None, lock: int | None
) -> tuple[Preforked, ExecError | None]:
    """Execute a program in `preforked`, or where that is None, was killed, or may not be held,
    in a process forked now.

    Returns the process and the error that prevented its exec, if one did. The process holds
    `lock` until its exec. Where this fails, no process is left. Raises `OSError`.
    """
    stdin = in_memory("geosched-input", standard_input)
    try:
        if preforked is not None:
            try:
                error = preforked.become(request, stdin, lock)
            except ConnectionError:
                log.warning("What was forked ahead was killed", extra={"event": "fork-lost"})
            else:
                if not request.held or error not in _NOT_PERMITTED:
                    return preforked, error
                # Security modules may refuse a held exec, as they would a debugger's.
                request = replace(request, held=False)
        process = Preforked()
        return process, process.become(request, stdin, lock)
    finally:
        os.close(stdin)


def trapped(child: int) -> int | None:
    """Return the `si_status` of a child that is stopped in a trace; None where it is not."""
    found = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return found.si_status if found is not None and found.si_code == os.CLD_TRAPPED else None


# --- in the child -----------------------------------------------------------------------


def _live(channel: int, output: int, worker: int) -> NoReturn:
    """Wait for the request, then execute it or send the error. Never returns."""
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
    # Without a time-out: the worker's end is this process's, too.
    _, descriptors, _, _ = socket.recv_fds(channel, 1, _DESCRIPTORS_MAX)
    if not descriptors:
        return  # the worker leaves
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)  # CPython 3.11 drops MSG_CMSG_CLOEXEC
    told, stdin = descriptors[:2]
    with os.fdopen(told, "rb") as file:
        request: ExecRequest = pickle.load(file)
    try:
        os.dup2(stdin, 0)
        _prepare(request, worker)
        if not request.held:
            wait_until(request.not_before_us)
            channel.send(f"{_BEGINS}{time.time_ns() // 1000}".encode())
        os.execve(request.program, request.command, request.environment)
    except ConditionError as error:
        channel.send(f"{error.errno} {error.key}".encode())
    except OSError as error:
        channel.send(str(error.errno).encode())
    except MemoryError:
        channel.send(f"{errno.ENOMEM} limits.address_space".encode())


def wait_until(wall_us: int, until_monotonic: float | None = None) -> None:
    """Sleep until the wall clock reads `wall_us`. Should that clock be set meanwhile: not beyond
    `until_monotonic`, and not for more than `AHEAD_SECONDS_MAX`."""
    limit_monotonic = time.monotonic() + AHEAD_SECONDS_MAX
    if until_monotonic is not None:
        limit_monotonic = min(limit_monotonic, until_monotonic)
    while (left := wall_us / 1e6 - time.time()) > 0 and time.monotonic() < limit_monotonic:
        time.sleep(min(left, AHEAD_SECONDS_MAX))


def _prepare(request: ExecRequest, worker: int) -> None:
    """Take on limits, credentials and surroundings, in the order in which that is possible.
    Raises `ConditionError`, `OSError`."""
    if request.open_files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, request.open_files)
    execution.limit(request.conditions)
    if request.credentials is not None:
        execution.give(1, request.credentials)  # so that it can open /dev/stdout
        execution.become(request.credentials)
        _die_with(worker)  # a change of credentials has called that off (fact P3)
    execution.settle(request.conditions)
    execution.limit_address_space(request.conditions)


def _die_with(worker: int) -> None:
    """Have the kernel kill this process when its worker ends."""
    set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != worker:
        os._exit(_CANNOT_EXEC)  # the worker was dead by then: no signal would come (fact P3)
