"""One run: from the start of its script until its whole tree is gone and its result is known.

Decides the cause of its end (`RunResult.cause`); the supervisor decides what that means for the
action. Its worker drives it in turns. It blocks for nothing but the instant of a held script.
"""

import logging
import os
import select
import time

import msgspec
from msgspec.structs import replace

from ...ipc.instants import restated_us
from ...ipc.messages.runs import EndCause, Heartbeat, Run, RunResult, StopReason
from ...ipc.paths import Runtime
from ..host import procfs, programs
from ..host.cgroups import Containment, Group
from ..host.execution import Credentials
from ..host.process_tree import RunTree
from ..runfiles.output import Output
from .launch import CannotStartError, ScriptExit, credentials_of, reap_strays, start
from .notify import NotifySocket
from .prefork import Preforked, wait_until
from .pump import Pump
from .stop import TreeStop
from .watchdog import Watchdog

log = logging.getLogger(__name__)

#: The longest grace of a script whose daemon is gone (S17).
ORPHAN_GRACE_SECONDS_MAX = 3.0
#: For this long before its instant, a worker attends to nothing but its held script.
ATTENTION_SECONDS = 0.003
#: A wall clock that is set back meanwhile makes the script late by at most this.
SET_BACK_SECONDS_MAX = 0.05
#: Between looks for the end of a slow exec, once its instant has come.
HELD_LOOK_SECONDS = 0.002


class World(msgspec.Struct, frozen=True):
    """State that a worker inherits from its zygote. `mark` tells the scripts of its instance from
    other processes. `open_files` are the limits, soft and hard, that scripts are to have; None
    to leave them. `lifeline` is a descriptor (law 11)."""

    runtime: Runtime
    mark: str
    containment: Containment
    lifeline: int
    open_files: tuple[int, int] | None = None


def overtakes(first: StopReason, later: StopReason) -> bool:
    """A later reason to stop takes the place of the first (S13a)."""
    return first is StopReason.CHANGED and later is not StopReason.CHANGED


def wall_us() -> int:
    """Return the wall clock in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


def boot_seconds() -> float:
    """Return the boot clock, which no step moves, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ActiveRun:
    """A run whose script was started, and which has no result yet. `now` is in monotonic
    seconds, as are the instants of its deadlines."""

    def __init__(
        self,
        order: Run,
        world: World,
        poll: select.poll,
        group: Group | None = None,
        *,
        preforked: Preforked | None = None,
        lock: int | None = None,
    ) -> None:
        """Start the script, in `preforked` if that lives; its process holds `lock` until the
        exec. Raises `CannotStartError`; then nothing is left of it."""
        self._order = order
        self._poll = poll
        self._status_text = ""
        self._cause: EndCause | None = None
        self._reason: StopReason | None = None
        self._exit: ScriptExit | None = None
        self._tree_stop: TreeStop | None = None
        self._detail = ""
        credentials = credentials_of(order)
        self._notify = _notify_socket(order, credentials, world.runtime, poll)
        try:
            self._script = start(
                _with_notify(order, self._notify.address),
                credentials,
                open_files=world.open_files,
                preforked=preforked,
                lock=lock,
            )
        except CannotStartError:
            self._notify.close()
            raise
        self._began_boot_seconds = boot_seconds()  # or, where it is held, at `_let_run`
        self._begins_at_monotonic = time.monotonic() + (order.not_before_us - wall_us()) / 1e6
        self._tree = RunTree(
            mark=world.mark,
            run_id=order.run_id,
            script_pid=self.script_pid,
            keeper=os.getpid(),
            group=group,
            users=frozenset((self._script.uid,)),
        )
        self._watchdog = Watchdog(order.watchdog_seconds, time.monotonic())
        output = Output(order.output_path, order.output_bytes_max)
        self._pump = Pump(self._script.output, output, poll)
        poll.register(self._script.pidfd, select.POLLIN)

    @property
    def script_pid(self) -> int:
        return self._script.pid

    @property
    def began_us(self) -> int | None:
        """The instant at which the script began, restated where the wall clock was set back; None
        before that."""
        if not self._script.began_us:
            return None
        return restated_us(
            self._script.began_us,
            self._began_boot_seconds,
            now_us=wall_us(),
            now_boot_seconds=boot_seconds(),
        )

    def heartbeat(self) -> Heartbeat:
        """Return the next heartbeat of the run. Reaps strays on the way, and mends the socket."""
        reap_strays(self.script_pid)
        self._mend_notify()
        found = procfs.stat(self.script_pid) if self._exit is None else None
        return Heartbeat(
            self._order.run_id,
            rss_bytes=found.rss_bytes if found else 0,
            cpu_seconds=found.cpu_seconds if found else 0.0,
            status_text=self._status_text,
            output_lost_bytes=self._pump.lost_bytes,
        )

    def stop(self, reason: StopReason, now: float) -> None:
        """Begin a stop, or give the one under way a reason that overtakes its own (S13a)."""
        grace = self._order.stop_grace_seconds
        if reason is StopReason.ORPHANED:
            grace = min(grace, ORPHAN_GRACE_SECONDS_MAX)
        self._notice_exit(now)
        if self._tree_stop is None:
            self._reason = reason
            self._begin_stop(EndCause.STOPPED, grace, now)
            self._script.call_off()
            return
        if reason is StopReason.ORPHANED:
            self._tree_stop.shorten(grace, now)
        if self._reason is not None and overtakes(self._reason, reason):
            self._reason = reason

    def turn(self, now: float) -> RunResult | None:
        """Do what is due. Returns the result once the whole tree is gone."""
        if self._waits and self._let_run(now):
            return None  # that took a while: the next turn has another `now`
        self._hear_script()
        self._pump.turn(now)
        self._notice_exit(now)
        late = not self._script.held and self._watchdog.turn(now)
        if late and self._tree_stop is None and not self._mend_notify():
            self._detail = f"no WATCHDOG=1 for {self._order.watchdog_seconds:g} s"
            self._begin_stop(EndCause.WATCHDOG, self._order.stop_grace_seconds, now)
        if self._tree_stop is not None and self._tree_stop.turn(now):
            return self._end()
        return None

    @property
    def _waits(self) -> bool:
        """The script is held before its instant, and not called off."""
        return self._script.held and self._tree_stop is None

    def _let_run(self, now: float) -> bool:
        """Let the held script begin exactly at its instant, then keep still while others begin
        that share it. True once it has begun."""
        if now < self._attention_at_monotonic():
            return False
        wait_until(self._order.not_before_us, self._begins_at_monotonic + SET_BACK_SECONDS_MAX)
        if not self._script.let_run():
            return False
        self._began_boot_seconds = boot_seconds()
        time.sleep(self._order.still_seconds)
        self._watchdog = Watchdog(self._order.watchdog_seconds, time.monotonic())
        return True

    def _attention_at_monotonic(self) -> float:
        """Return the monotonic instant from which on only the held script is attended to. The
        poll is exact to a millisecond, and waking up takes processor time: the more scripts
        begin together, the earlier this is."""
        return self._begins_at_monotonic - ATTENTION_SECONDS - self._order.still_seconds / 2

    def next_deadline(self, now: float) -> float | None:
        """Return the monotonic instant of the next turn that is due; None where none is."""
        deadlines = [self._pump.next_deadline(now)]
        if self._waits:
            deadlines.append(max(self._attention_at_monotonic(), now + HELD_LOOK_SECONDS))
        elif self._tree_stop is None:
            deadlines.append(self._watchdog.next_deadline())
        else:
            deadlines.append(self._tree_stop.next_deadline())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _hear_script(self) -> None:
        for notice in self._notify.drain():
            if notice.watchdog:
                self._watchdog.fed()
            if notice.status is not None:
                self._status_text = notice.status

    def _mend_notify(self) -> bool:
        """Make the script's socket anew where it was removed. True where it had been: then the
        script's silence is not its own, and the watchdog begins anew."""
        mended = self._notify.mend()
        if mended:
            self._watchdog.fed()
        return mended

    def _notice_exit(self, now: float) -> None:
        """Once the script has ended, stop whatever it left behind."""
        if self._exit is not None:
            return
        self._exit = self._script.ended()
        if self._exit is None:
            return
        self._poll.unregister(self._script.pidfd)
        if self._tree_stop is not None:
            self._tree_stop.hurry(now)
        else:
            self._begin_stop(EndCause.EXITED, self._order.stop_grace_seconds, now)

    def _begin_stop(self, cause: EndCause, grace_seconds: float, now: float) -> None:
        self._cause = cause
        self._tree_stop = TreeStop(
            self._tree, self._order.stop_signal, grace_seconds=grace_seconds, now=now
        )

    def _end(self) -> RunResult:
        """Close what is open and return the result. The tree is gone."""
        assert self._cause is not None
        self._notice_exit(time.monotonic())
        self._hear_script()
        self._pump.close()
        self._notify.close()
        self._script.forget()
        reap_strays(self.script_pid)
        exit_code, signal = self._exit or (None, None)
        return RunResult(
            self._order.run_id,
            self._cause,
            wall_us(),
            exit_code=exit_code,
            signal=signal,
            stop_reason=self._reason if self._cause is EndCause.STOPPED else None,
            detail=self._detail,
            script_pid=self.script_pid,
            status_text=self._status_text,
            output_lost_bytes=self._pump.lost_bytes,
            begun_us=self.began_us,
        )


def _notify_socket(
    order: Run, credentials: Credentials | None, runtime: Runtime, poll: select.poll
) -> NotifySocket:
    """Open the socket on which the script's user reaches this worker. Raises
    `CannotStartError`."""
    uid = os.geteuid() if credentials is None else credentials.uid
    worker = os.getpid()
    path = f"{runtime.notify}/{worker}"
    try:
        notify = NotifySocket(path, uid, poll, lambda pid: procfs.is_below(pid, worker))
    except OSError as error:
        raise CannotStartError(f"cannot open its notify socket: {error}") from None
    if programs.may_search(os.fspath(runtime.notify), credentials):
        return notify
    if not order.watchdog_seconds:
        log.info("The script's user cannot enter %s to notify", runtime.notify)
        return notify
    notify.close()
    raise CannotStartError(f"cannot watch it: its user cannot enter {runtime.notify}")


def _with_notify(order: Run, address: str) -> Run:
    """Add the variables of `sd_notify(3)` and `sd_watchdog_enabled(3)` to an order."""
    variables = {"NOTIFY_SOCKET": address}
    if order.watchdog_seconds:
        variables["WATCHDOG_USEC"] = str(round(order.watchdog_seconds * 1_000_000))
    return replace(order, environment=order.environment | variables)
