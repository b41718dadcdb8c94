"""Starts one action script and tells how it ended. Stopping its tree is `stop.py`'s.

What can be refused is refused here, in the worker; how its process comes about, and what
that does before it is the script, is `prefork.py`'s.
"""

import contextlib
import errno
import logging
import os
import signal
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from ...ipc.messages.runs import Conditions
from ..host import execution, trust
from ..host.execution import Person, UnusableConditionsError
from ..host.linux import HELD_AT_EXEC, let_run
from ..host.lookup import find_program
from .prefork import Calling, Preforked, memory, trapped

log = logging.getLogger(__name__)

STRAYS_PER_ROUND_MAX = 1000
#: As many as the kernel follows, and as much of a first line as it reads.
INTERPRETERS_MAX = 5
INTERPRETER_LINE_BYTES_MAX = 256
_NOT_PERMITTED = ((errno.EPERM, ""), (errno.EACCES, ""))

_AS_EVER = Conditions()


class CannotStartError(Exception):
    """Why a script cannot be started, in words for the operator."""


class ScriptExit(NamedTuple):
    """What `waitid` told of the script: one of the two is None."""

    exit_code: int | None
    signal: int | None


class Launch(msgspec.Struct, frozen=True):
    """What a script is started with, and at what instant of the wall clock at the earliest.
    `open_files` are its limits, soft and hard, or None to leave them as they are."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    input: bytes
    open_files: tuple[int, int] | None = None
    conditions: Conditions = _AS_EVER
    not_before_us: int = 0
    still_seconds: float = 0.0


class Script:
    """A script that was started: the leader of its own session and process group.

    `output` is the reading end of its standard output and error. Its pid cannot be used
    again until `forget`.
    """

    def __init__(self, process: Preforked, uid: int) -> None:
        self.pid = process.pid
        self.uid = uid
        self.pidfd = process.pidfd
        self.output = process.output
        self.began_us = process.began_us
        self.held = process.held

    def ended(self) -> ScriptExit | None:
        """How it ended, if it has. It stays unreaped, so that nobody else gets its pid."""
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        if found.si_code == os.CLD_TRAPPED:
            return None  # held
        if found.si_code == os.CLD_EXITED:
            return ScriptExit(found.si_status, None)
        return ScriptExit(None, found.si_status)

    def let_run(self) -> bool:
        """Have it begin where it is held; whether it has, for its exec may not be over yet."""
        status, now_us = trapped(self.pid), time.time_ns() // 1000
        if status is not None:
            with contextlib.suppress(ProcessLookupError):
                let_run(self.pid, status)
        if status == HELD_AT_EXEC or self.ended() is not None:
            self.held = False
            self.began_us = now_us
        return not self.held

    def call_off(self) -> None:
        """Where it is held, it ends without having begun."""
        if self.held:
            os.kill(self.pid, signal.SIGKILL)
            self.held = False

    def forget(self) -> None:
        """Reap it; only once its tree is gone."""
        os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        os.close(self.output)


def start(launch: Launch, preforked: Preforked | None = None, lock: int | None = None) -> Script:
    """Start a script; it has become its command when this returns.

    `preforked` is to become it, if it still lives; it is the script's from now on, but for
    what is refused before that. `lock` is held until the exec, whatever becomes of us.
    Raises `CannotStartError`.
    """
    program = _program(launch)
    _refuse_unusable(launch)
    _refuse_untrusted(program)
    who = _person(launch)
    environment = dict(launch.environment)
    if who is not None:
        environment = who.environment | environment
    calling = Calling(
        program,
        launch.command,
        environment,
        who,
        launch.conditions,
        launch.open_files,
        launch.not_before_us,
        held=launch.not_before_us * 1000 > time.time_ns() and not _gives_rights(program),
    )
    try:
        process, error = _become(calling, launch, preforked, lock)
    except OSError as problem:
        raise CannotStartError(f"cannot start {program}: {problem.strerror}") from None
    if error is not None:
        raise CannotStartError(f"cannot start {program}: {_in_words(launch, program, *error)}")
    return Script(process, who.uid if who is not None else os.geteuid())


def _become(
    calling: Calling, launch: Launch, preforked: Preforked | None, lock: int | None
) -> tuple[Preforked, tuple[int, str] | None]:
    """The process, and the error that kept it from becoming the script. Raises `OSError`;
    either way nothing is left of it then."""
    given = memory(launch.input)
    still = launch.still_seconds
    try:
        if preforked is not None:
            try:
                error = _hand(preforked, calling, given, lock, still)
            except ConnectionError:
                log.warning("What was forked ahead was killed", extra={"event": "fork-lost"})
            else:
                if not calling.held or error not in _NOT_PERMITTED:
                    return preforked, error
                # Security modules may refuse what is held, as they would a debugger.
                calling = replace(calling, held=False)
        process = Preforked()
        return process, _hand(process, calling, given, lock, still)
    finally:
        os.close(given)


def _hand(
    process: Preforked, calling: Calling, given: int, lock: int | None, still_seconds: float
) -> tuple[int, str] | None:
    try:
        error = process.become(calling, given, lock, still_seconds=still_seconds)
    except OSError:
        process.discard()
        raise
    if error is None:
        process.let_go()
    else:
        process.discard()
    return error


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


def _program(launch: Launch) -> str:
    """The file to execute: a path as it is, a bare name as found in the script's PATH."""
    if not launch.command or not launch.command[0]:
        raise CannotStartError("cannot start the script: its command is empty")
    name = launch.command[0]
    if "/" in name:
        return name
    found = find_program(name, launch.environment)
    if found is None:
        raise CannotStartError(f"cannot start {name}: no such command in its PATH")
    return found


def _refuse_unusable(launch: Launch) -> None:
    if any("\0" in part for part in launch.command):
        raise CannotStartError(f"cannot start {launch.command[0]!r}: an argument has a NUL")
    for name, value in launch.environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise CannotStartError(
                f"cannot start {launch.command[0]}: the environment variable {name!r} is unusable"
            )


def _gives_rights(program: str) -> bool:
    """Whether its file, or that of its interpreter, gives a program rights, which it would
    not get while it is held."""
    for _ in range(INTERPRETERS_MAX):
        try:
            with open(program, "rb") as file:
                first = file.read(INTERPRETER_LINE_BYTES_MAX).split(b"\n", 1)[0]
                if os.fstat(file.fileno()).st_mode & (stat.S_ISUID | stat.S_ISGID):
                    return True
        except OSError:
            return True  # who may execute it but not read it cannot tell
        with contextlib.suppress(OSError):  # it has none, or its file system knows none
            if os.getxattr(program, "security.capability"):
                return True
        named = first.removeprefix(b"#!").split()
        if not first.startswith(b"#!") or not named:
            return False
        program = os.fsdecode(named[0])
    return True


def _refuse_untrusted(program: str) -> None:
    """What root starts, nobody else may have written; looked at again for each run."""
    reason = trust.why_not(Path(program)) if os.geteuid() == 0 else ""
    if reason:
        raise CannotStartError(f"cannot start {program}: {reason}")


def _person(launch: Launch) -> Person | None:
    try:
        return execution.person(launch.conditions)
    except UnusableConditionsError as error:
        raise CannotStartError(f"cannot start {launch.command[0]}: {error}") from None


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
