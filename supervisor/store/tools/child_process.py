"""Child processes that run a command of the daemon's own (`cli.py` or `examiner.py` on a store,
the reader of a reload), and their answers.

At start and stop the daemon may wait for one; while it works it never does (law 2): then
`pidfd` tells of the end, and the answer is read from memory afterwards. Decides nothing.
"""

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from ....ipc.decoding import DECODE_ERRORS
from ....ipc.environment import child_environment
from ....ipc.signals import signal_name
from ....workers.host import procfs
from ....workers.host.liveness import LOOK_SECONDS_MAX, AnswerWait
from ..errors import StoreError, StoreErrorKind
from ..files import StorePaths
from ..repair.findings import Condition, Examination
from ..repair.incidents import Incident

#: Signals by which LMDB and the kernel end a process that reads a damaged file (fact 3).
_KILLED_BY_DAMAGE = frozenset({signal.SIGBUS, signal.SIGABRT, signal.SIGSEGV, signal.SIGFPE})
ANSWER_BYTES_MAX = 16 * 1024**2
COMPLAINT_BYTES_MAX = 4096
KILLED_SECONDS_MAX = 60.0
#: A child hangs that does nothing for so long, or has used so much processor time (law 17); the
#: service manager is told to wait as long, again and again. Enough for a gigabyte.
EXAMINE_SECONDS_MAX = 300.0
#: Enough to examine two backups and to write a third store.
REPLACE_SECONDS_MAX = 900.0
_TOOL = "geosched.supervisor.store.tools.cli"
_EXAMINER = "geosched.supervisor.store.tools.examiner"
Finding = TypeVar("Finding")
_STDIN, _STDOUT, _STDERR = range(3)
_decode_examination = msgspec.json.Decoder(Examination).decode
_decode_incident = msgspec.json.Decoder(Incident).decode


def _nothing() -> None:
    """Nobody wants to know that it still goes on."""


class Answer(msgspec.Struct, frozen=True):
    """The end of a child: its standard `output`, the `complaint` on its standard error, its exit
    code, and in `died_of` the name of the signal that killed it, "" for none."""

    output: bytes
    complaint: str
    code: int = 0
    died_of: str = ""

    @property
    def damage(self) -> bool:
        """It died as a process does that maps a damaged file."""
        return self.died_of in [each.name for each in _KILLED_BY_DAMAGE]


class ChildProcess:
    """A command in a process of its own; it has ended when `pidfd` is readable."""

    def __init__(
        self, *arguments: str | Path, tool: str = _TOOL, forked: Callable[[], None] | None = None
    ) -> None:
        """Start it. `forked` is carried out in its place, by a fork of this process, which has one
        thread and no store open. Raises `OSError`."""
        with contextlib.ExitStack() as opened:
            self._said = os.memfd_create("geosched-child")
            opened.callback(os.close, self._said)
            self._complained = os.memfd_create("geosched-child")
            opened.callback(os.close, self._complained)
            if forked is None:
                self.pid = self._spawn([sys.executable, "-P", "-m", tool, *map(str, arguments)])
            else:
                self.pid = self._fork(forked)
            self.pidfd = os.pidfd_open(self.pid)
            opened.pop_all()

    def _spawn(self, command: list[str]) -> int:
        return os.posix_spawn(
            sys.executable,
            command,
            child_environment(os.environ),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, _STDIN, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, self._said, _STDOUT),
                (os.POSIX_SPAWN_DUP2, self._complained, _STDERR),
            ],
            setsigmask=(),
        )

    def _fork(self, work: Callable[[], None]) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            os.dup2(self._said, _STDOUT)
            os.dup2(self._complained, _STDERR)
            work()
            code = os.EX_OK
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else code
        finally:
            os._exit(code)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def abandon(self) -> None:
        """Kill a child that nobody waits for any more, and close what it would have answered."""
        self.kill()
        self._close(0, "")

    def wait(self, seconds_max: float, still: Callable[[], None] = _nothing) -> None:
        """Wait for the end, and kill a child that hangs for `seconds_max`; `still` is called
        while it goes on. Raises `StoreError` for one that cannot be killed: its device does not
        answer."""
        gone = select.poll()
        gone.register(self.pidfd, select.POLLIN)
        awaited = AnswerWait(
            time.monotonic(),
            procfs.activity(self.pid),
            idle_seconds_max=seconds_max,
            cpu_seconds_max=seconds_max,
        )
        while not gone.poll(min(LOOK_SECONDS_MAX, seconds_max) * 1000):
            still()
            if awaited.hangs(time.monotonic(), procfs.activity(self.pid)):
                self._end(gone)
                return

    def _end(self, gone: select.poll) -> None:
        self.kill()
        if not gone.poll(KILLED_SECONDS_MAX * 1000):
            detail = "cannot look at daemonDB: its disk does not answer"
            raise StoreError(detail, kind=StoreErrorKind.IO)

    def answer(self) -> Answer:
        """Return the answer of a child that has ended, once; code 0 if it was reaped elsewhere."""
        with contextlib.suppress(ChildProcessError):
            ended = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
            assert ended is not None
            exited = ended.si_code == os.CLD_EXITED
            died_of = "" if exited else signal_name(ended.si_status)
            return self._close(ended.si_status if exited else 0, died_of)
        return self._close(0, "")

    def _close(self, code: int, died_of: str) -> Answer:
        said = os.pread(self._said, ANSWER_BYTES_MAX, 0)
        complained = os.pread(self._complained, COMPLAINT_BYTES_MAX, 0)
        for descriptor in (self._said, self._complained, self.pidfd):
            os.close(descriptor)
        return Answer(said, complained.decode(errors="replace").strip(), code, died_of)


def _output(
    verb: str, state_dir: Path, *arguments: str, seconds_max: float, still: Callable[[], None]
) -> bytes:
    """Run a command on the store below `state_dir`; return its output. Raises `StoreError`."""
    child = ChildProcess(verb, state_dir, *arguments)
    child.wait(seconds_max, still)
    answer = _checked(child.answer(), verb, state_dir)
    if answer.damage:
        does = verb.removesuffix("-own")
        raise StoreError(f"cannot {does} the database in {state_dir}: {answer.died_of}")
    return answer.output


def _checked(answer: Answer, verb: str, store_dir: Path) -> Answer:
    """Return the answer. Raises `StoreError` for a child that failed otherwise than by damage."""
    if answer.code or (answer.died_of and not answer.damage):
        raise StoreError(_why(answer, verb, store_dir), kind=StoreErrorKind.IO)
    return answer


def _decoded(
    output: bytes, decode: Callable[[bytes], Finding], verb: str, store_dir: Path
) -> Finding:
    """Return what a child has found. Raises `StoreError` where it said something else."""
    try:
        return decode(output)
    except DECODE_ERRORS as error:
        raise StoreError(f"cannot {verb} {store_dir}: {error}", kind=StoreErrorKind.IO) from None


def _why(answer: Answer, verb: str, store_dir: Path) -> str:
    said = answer.complaint.splitlines()[-1:]
    if said and said[0].startswith("cannot"):
        return said[0]
    return f"cannot {verb} {store_dir}: {''.join(said) or answer.died_of or 'it ended silently'}"


def examine(store_dir: Path, still: Callable[[], None] = _nothing) -> Examination:
    """Examine a store, in a process that its file may kill. Raises `StoreError`."""
    return examination(ChildProcess(store_dir, tool=_EXAMINER), store_dir, still)


def begin_to_examine(state_dir: Path) -> ChildProcess | None:
    """Begin the examination of a store, to be waited for by `examination`. None where that
    fails: opening the store will raise the reason."""
    paths = StorePaths(state_dir)
    try:
        paths.prepare()
        return ChildProcess(paths.store, tool=_EXAMINER)
    except (StoreError, OSError):
        return None


def examination(
    child: ChildProcess, store_dir: Path, still: Callable[[], None] = _nothing
) -> Examination:
    """Wait for a child that examines, and return its finding. Raises `StoreError`."""
    child.wait(EXAMINE_SECONDS_MAX, still)
    answer = child.answer()
    if answer.damage:
        return Examination(Condition.DAMAGED, f"reading it ends with {answer.died_of}")
    output = _checked(answer, "examine", store_dir).output
    return _decoded(output, _decode_examination, "examine", store_dir)


def replace(
    state_dir: Path,
    why: str,
    *,
    map_bytes: int,
    now_us: int,
    still: Callable[[], None] = _nothing,
) -> Incident:
    """Replace the store below `state_dir`, for the reason `why`. Raises `StoreError`."""
    command = ("replace", state_dir, why, str(map_bytes), str(now_us))
    output = _output(*command, seconds_max=REPLACE_SECONDS_MAX, still=still)
    return _decoded(output, _decode_incident, "replace", state_dir)


def back_up(state_dir: Path, *, seconds_max: float, still: Callable[[], None] = _nothing) -> None:
    """Make one of the daemon's own backups. Raises `StoreError`."""
    _output("backup-own", state_dir, seconds_max=seconds_max, still=still)
