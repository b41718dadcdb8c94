"""The start of an action script: its checks, its process, and its exit status.

Scripts that cannot be started are refused here, in the worker. `prefork.py` makes the process
and prepares it for its exec; `stop.py` ends its tree.
"""

import contextlib
import errno
import os
import signal
import stat
import time
from typing import NamedTuple

from ...ipc.messages.runs import Run
from ..host import execution, programs, trust
from ..host.execution import Credentials, UnusableConditionsError
from ..host.files import open_regular
from ..host.linux import HELD_AT_EXEC, let_run
from ..host.lookup import find_program
from ..host.procfs import MARK_VARIABLES
from ..host.programs import HEAD_BYTES, INTERPRETERS_MAX, Surroundings
from .prefork import ExecError, ExecRequest, Preforked, become_script, trapped

STRAYS_PER_ROUND_MAX = 1000


#: Errors of an exec whose reason is in the file, or in those that it names.
_ABOUT_THE_FILE = (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR, errno.ELOOP)


class CannotStartError(Exception):
    """A script cannot be started; the message is for the operator."""


class ScriptExit(NamedTuple):
    """The exit status of a script, from `waitid`: one of the two is None."""

    exit_code: int | None
    signal: int | None


class Script:
    """A script that was started: the leader of its own session and process group.

    `output` is the reading end of its standard output and error. The kernel does not give its
    pid to another process before `forget`. While it is `held` before its first instruction,
    `began_us` is 0.
    """

    def __init__(self, process: Preforked, uid: int) -> None:
        self.pid = process.pid
        self.uid = uid
        self.pidfd = process.pidfd
        self.output = process.output
        self.began_us = process.began_us
        self.held = process.held

    def ended(self) -> ScriptExit | None:
        """Return its exit status, None while it runs. It stays unreaped, which keeps its pid."""
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        if found.si_code == os.CLD_TRAPPED:
            return None  # held
        if found.si_code == os.CLD_EXITED:
            return ScriptExit(found.si_status, None)
        return ScriptExit(None, found.si_status)

    def let_run(self) -> bool:
        """Let it begin where it is held. True once it has, or was killed there; its exec may not be
        over yet."""
        status, now_us = trapped(self.pid), time.time_ns() // 1000
        if status is not None:
            with contextlib.suppress(ProcessLookupError):
                let_run(self.pid, status)
        if status == HELD_AT_EXEC:
            self.held = False
            self.began_us = now_us
        elif self.ended() is not None:
            self.held = False  # it was killed before its first instruction
        return not self.held

    def call_off(self) -> None:
        """End it where it is held, before it has begun."""
        if self.held:
            os.kill(self.pid, signal.SIGKILL)
            self.held = False

    def forget(self) -> None:
        """Reap it, once its tree is gone."""
        os.waitpid(self.pid, 0)
        os.close(self.pidfd)
        os.close(self.output)


def credentials_of(order: Run) -> Credentials | None:
    """Look up the credentials that an order names; None for the worker's own. Raises
    `CannotStartError`, also where only root could give them."""
    try:
        credentials = execution.credentials_of(order.conditions)
    except UnusableConditionsError as error:
        raise _cannot_start(order, error) from None
    for reason in execution.foreign(credentials):
        raise _cannot_start(order, reason)
    return credentials


def start(
    order: Run,
    credentials: Credentials | None,
    *,
    open_files: tuple[int, int] | None = None,
    preforked: Preforked | None = None,
    lock: int | None = None,
) -> Script:
    """Start a script, and return once it has been executed.

    `credentials` are those that the order names. `open_files` are its limits, soft and hard,
    None to leave them. `preforked`, if it still lives, becomes the script, and is the script's
    from here on, unless the order is refused first. `lock` is held until the exec, even should
    the worker die. Raises `CannotStartError`.
    """
    program = _program(order)
    _refuse_unusable(order)
    _refuse_untrusted(program)
    own = {} if credentials is None else credentials.environment
    # First, where a bounded read of the environment finds them.
    marks = {name: order.environment[name] for name in MARK_VARIABLES if name in order.environment}
    request = ExecRequest(
        program=program,
        command=order.command,
        environment=marks | own | order.environment,
        credentials=credentials,
        conditions=order.conditions,
        open_files=open_files,
        not_before_us=order.not_before_us,
        still_seconds=order.still_seconds,
        held=order.not_before_us * 1000 > time.time_ns() and not _gives_rights(program),
    )
    try:
        process, error = become_script(request, order.input, preforked, lock)
    except OSError as problem:
        raise CannotStartError(f"cannot start {program}: {problem.strerror}") from None
    if error is not None:
        raise CannotStartError(f"cannot start {program}: {_in_words(request, error)}")
    return Script(process, os.geteuid() if credentials is None else credentials.uid)


def reap_strays(script_pid: int) -> None:
    """Reap ended processes that were reparented to this one, but not the script (fact P4)."""
    for _ in range(STRAYS_PER_ROUND_MAX):
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid == script_pid:
            return
        os.waitpid(found.si_pid, 0)


def _program(order: Run) -> str:
    """Return the file to execute: a path as it is, a bare name as found in the script's PATH."""
    if not order.command or not order.command[0]:
        raise CannotStartError("cannot start the script: its command is empty")
    name = order.command[0]
    if "/" in name:
        return name
    found = find_program(name, order.environment)
    if found is None:
        raise CannotStartError(f"cannot start {name}: no such command in its PATH")
    return found


def _refuse_unusable(order: Run) -> None:
    if any("\0" in part for part in order.command):
        raise CannotStartError(f"cannot start {order.command[0]!r}: an argument has a NUL")
    for name, value in order.environment.items():
        if not name or "=" in name or "\0" in name + value:
            raise CannotStartError(
                f"cannot start {order.command[0]}: the environment variable {name!r} is unusable"
            )


def _gives_rights(program: str) -> bool:
    """A program's file, or that of its interpreter, gives it rights (set-uid, set-gid, file
    capabilities), which it would not get while it is held (ptrace(2))."""
    for _ in range(INTERPRETERS_MAX):
        try:
            with open_regular(program) as file:
                first = file.read(HEAD_BYTES).split(b"\n", 1)[0]
                if os.fstat(file.fileno()).st_mode & (stat.S_ISUID | stat.S_ISGID):
                    return True
        except OSError:
            return True  # it may be executed but not read: it might
        with contextlib.suppress(OSError):  # it has none, or the file system supports none
            if os.getxattr(program, "security.capability"):
                return True
        named = first.removeprefix(b"#!").split()
        if not first.startswith(b"#!") or not named:
            return False
        program = os.fsdecode(named[0])
    return True


def _refuse_untrusted(program: str) -> None:
    """Refuse, as root, a program that others could have written; at each start anew."""
    reason = trust.why_not(program) if os.geteuid() == 0 else ""
    if reason:
        raise CannotStartError(f"cannot start {program}: {reason}")


def _cannot_start(order: Run, reason: object) -> CannotStartError:
    name = order.command[0] if order.command else "the script"
    return CannotStartError(f"cannot start {name}: {reason}")


def _in_words(request: ExecRequest, error: ExecError) -> str:
    number, key = error
    if key:
        return f"{key}: {os.strerror(number) if number else 'out of range on this host'}"
    within = Surroundings(request.conditions.cwd, request.environment, request.credentials)
    if number in _ABOUT_THE_FILE and (reason := programs.why_not(request.program, within)):
        return reason
    user = request.conditions.user
    words = {
        errno.ENOENT: "no such file",
        errno.EACCES: "it is not executable" + (f" for user {user}" if user else ""),
        errno.EAGAIN: "its user has more processes than limits.processes",
        errno.E2BIG: "its arguments or environment are too long",
        errno.ENOEXEC: "it is no executable and has no #! line",
        errno.ETXTBSY: "somebody has it open for writing",
    }
    return words.get(number) or os.strerror(number)
