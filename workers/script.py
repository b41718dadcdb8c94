"""Starts one action script and tells how it ended. Stopping its tree is `ending.py`'s.

Forks by hand, in the worker: between fork and exec the child has to do what `subprocess`
has no hook for (law 12). All that can be prepared or refused is, before the fork.
"""

import contextlib
import errno
import os
import resource
import select
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import NamedTuple, NoReturn

from ..ipc.messages import Conditions
from . import conditions, trust
from .conditions import ConditionError, Person, UnusableConditionsError
from .linux import set_parent_death_signal

#: An exec that takes longer (a file server that hangs) counts as a start; if it fails
#: later on, the script's exit code says so.
EXEC_MILLISECONDS_MAX = 5000
STRAYS_PER_ROUND_MAX = 1000
#: Where the child keeps its error pipe, behind standard error.
_ERROR_FD = 3
_CANNOT_EXEC = 127
#: All that can be set; known before the fork, after which every moment counts.
_SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})


_AS_EVER = Conditions()


class CannotStartError(Exception):
    """Why a script cannot be started, in words for the operator."""


class ScriptExit(NamedTuple):
    """What `waitid` told of the script: one of the two is None."""

    exit_code: int | None
    signal: int | None


@dataclass(frozen=True, slots=True)
class Launch:
    """What a script is started with. `open_files` are its limits, soft and hard, or None
    to leave them as they are."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    input: bytes
    open_files: tuple[int, int] | None = None
    conditions: Conditions = _AS_EVER


class Script:
    """A script that was started: the leader of its own session and process group.

    `output` is the reading end of its standard output and error. Its pid cannot be used
    again until `forget`.
    """

    def __init__(self, pid: int, uid: int, pidfd: int, output: int) -> None:
        self.pid = pid
        self.uid = uid
        self.pidfd = pidfd
        self.output = output

    def ended(self) -> ScriptExit | None:
        """How it ended, if it has. It stays unreaped, so that nobody else gets its pid."""
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        if found.si_code == os.CLD_EXITED:
            return ScriptExit(found.si_status, None)
        return ScriptExit(None, found.si_status)

    def forget(self) -> None:
        """Reap it; only once its tree is gone."""
        os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        os.close(self.output)


def start(launch: Launch) -> Script:
    """Start a script; it has become its command when this returns.

    Raises `CannotStartError`.
    """
    program = _program(launch)
    _refuse_unusable(launch)
    _refuse_untrusted(program)
    who = _person(launch)
    if who is not None:
        launch = replace(launch, environment=who.environment | dict(launch.environment))
    try:
        with contextlib.ExitStack() as opened:
            given = opened.enter_context(os.fdopen(_input(launch.input), "rb", buffering=0))
            output, write_output = _pipe(opened)
            failure, write_failure = _pipe(opened)
            worker = os.getpid()
            pid = os.fork()
            if pid == 0:
                streams = (given.fileno(), write_output.fileno(), write_failure.fileno())
                _become(launch, who, program, streams, worker)
            write_failure.close()
            error = _exec_error(failure.fileno())
            if error is None:
                return _started(pid, who.uid if who is not None else os.geteuid(), output)
            os.waitpid(pid, 0)
    except OSError as problem:
        raise CannotStartError(f"cannot start {program}: {problem.strerror}") from None
    raise CannotStartError(f"cannot start {program}: {_in_words(launch, program, *error)}")


def reap_strays(script_pid: int) -> None:
    """Wait for what was reparented to this process and has ended, but for the script."""
    for _ in range(STRAYS_PER_ROUND_MAX):
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid == script_pid:
            return
        os.waitpid(found.si_pid, 0)


def _started(pid: int, uid: int, output: FileIO) -> Script:
    """Raises `OSError` where we lack descriptors; then the script is gone again."""
    try:
        return Script(pid, uid, os.pidfd_open(pid), os.dup(output.fileno()))
    except OSError:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _program(launch: Launch) -> str:
    """The file to execute: a path as it is, a bare name as found in the script's PATH, and
    absolute, so that what is looked at here is what is executed from another directory."""
    if not launch.command or not launch.command[0]:
        raise CannotStartError("cannot start the script: its command is empty")
    name = launch.command[0]
    if "/" in name:
        return name
    found = shutil.which(name, path=launch.environment.get("PATH", os.defpath))
    if found is None:
        raise CannotStartError(f"cannot start {name}: no such command in its PATH")
    return os.path.join(os.getcwd(), found)


def _refuse_unusable(launch: Launch) -> None:
    if any("\0" in part for part in launch.command):
        raise CannotStartError(f"cannot start {launch.command[0]!r}: an argument has a NUL")
    for name, value in launch.environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise CannotStartError(
                f"cannot start {launch.command[0]}: the environment variable {name!r} is unusable"
            )


def _refuse_untrusted(program: str) -> None:
    """What root starts, nobody else may have written; looked at again for each run."""
    reason = trust.why_not(Path(program)) if os.geteuid() == 0 else ""
    if reason:
        raise CannotStartError(f"cannot start {program}: {reason}")


def _person(launch: Launch) -> Person | None:
    try:
        return conditions.person(launch.conditions)
    except UnusableConditionsError as error:
        raise CannotStartError(f"cannot start {launch.command[0]}: {error}") from None


def _input(content: bytes) -> int:
    """A descriptor that reads `content`, then end of file, and needs nobody to write it."""
    descriptor = os.memfd_create("geosched-input")
    with os.fdopen(descriptor, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _pipe(opened: contextlib.ExitStack) -> tuple[FileIO, FileIO]:
    read, write = os.pipe()
    return (
        opened.enter_context(os.fdopen(read, "rb", buffering=0)),
        opened.enter_context(os.fdopen(write, "wb", buffering=0)),
    )


def _become(
    launch: Launch,
    who: Person | None,
    program: str,
    streams: tuple[int, int, int],
    worker: int,
) -> NoReturn:
    """In the child: become the script, or tell why not. Never returns, whatever happens."""
    given, output, failure = streams
    try:
        os.setsid()
        _die_with(worker)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.dup2(given, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        failure = os.dup2(failure, _ERROR_FD, inheritable=False)
        os.closerange(_ERROR_FD + 1, os.sysconf("SC_OPEN_MAX"))
        if launch.open_files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, launch.open_files)
        conditions.limit(launch.conditions)
        if who is not None:
            conditions.give(1, who)  # so that it can open /dev/stdout
            conditions.become(who)
            _die_with(worker)  # becoming somebody else has called that off (fact P3)
        conditions.settle(launch.conditions)
        conditions.limit_address_space(launch.conditions)
        os.execve(program, launch.command, launch.environment)
    except ConditionError as error:
        os.write(failure, f"{error.errno} {error.key}".encode())
    except OSError as error:
        os.write(failure, str(error.errno).encode())
    except MemoryError:
        os.write(failure, f"{errno.ENOMEM} limits.address_space".encode())
    finally:
        os._exit(_CANNOT_EXEC)


def _die_with(worker: int) -> None:
    set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != worker:
        os._exit(_CANNOT_EXEC)  # it died before it could take us with it (fact P3)


def _exec_error(failure: int) -> tuple[int, str] | None:
    """The error that kept the child from becoming the script, if one did, and the key of
    the configuration that it is about, or ""."""
    poll = select.poll()
    poll.register(failure, select.POLLIN)
    if not poll.poll(EXEC_MILLISECONDS_MAX):
        return None
    told = os.read(failure, 256).decode()
    if not told:
        return None
    number, _, key = told.partition(" ")
    return int(number), key


def _in_words(launch: Launch, program: str, error: int, key: str) -> str:
    if key:
        return f"{key}: {os.strerror(error) if error else 'out of range on this host'}"
    path = Path(program)
    if error == errno.ENOENT and path.exists():
        return "the interpreter in its first line does not exist"
    if error == errno.EACCES and path.is_dir():
        return "it is a directory"
    user = launch.conditions.user
    words = {
        errno.ENOENT: "no such file",
        errno.EACCES: "it is not executable" + (f" for user {user}" if user else ""),
        errno.EAGAIN: "its user has more processes than limits.processes",
        errno.E2BIG: "its arguments or environment are too long",
        errno.ENOEXEC: "it is no executable and has no #! line",
    }
    return words.get(error) or os.strerror(error)
