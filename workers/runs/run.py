"""One run, from the start of its script until all of its tree is gone and its end is known.

Decides what ended it (`RunResult.cause`); what that means for an action, the supervisor
does. It is driven by turns, and waits for nothing but the instant of a script that is held.
"""

import logging
import os
import time
from pathlib import Path

import msgspec

from ...ipc.messages.runs import EndCause, Heartbeat, Run, RunResult, StopReason
from ...ipc.paths import Runtime
from ...ipc.sockets import Poller
from ..host import procfs
from ..host.cgroups import Containment, Group
from ..host.process_tree import RunTree
from ..runfiles.output import Output
from .launch import CannotStartError, Launch, ScriptExit, reap_strays, start
from .notify import NotifySocket, Watchdog
from .prefork import Preforked, wait_until
from .pump import Pump
from .stop import Ending

log = logging.getLogger(__name__)

#: When the daemon is gone its scripts get no longer grace than this (S17).
ORPHAN_GRACE_SECONDS_MAX = 3.0
#: So long before its instant a worker attends to nothing but a script that is held.
ATTENTION_SECONDS = 0.003
#: A clock that is set back meanwhile makes it late by no more than this.
SET_BACK_SECONDS_MAX = 0.05
#: How often to look whether a slow exec is over, once the instant is there.
HELD_LOOK_SECONDS = 0.002


class World(msgspec.Struct, frozen=True):
    """What a worker has from its zygote."""

    runtime: Runtime
    instance: str
    containment: Containment
    lifeline: int
    open_files: tuple[int, int] | None = None  # the limits that scripts are to have


def overtakes(first: StopReason, later: StopReason) -> bool:
    """Whether a later reason to stop takes the place of the first (S13a)."""
    return first is StopReason.CHANGED and later is not StopReason.CHANGED


def wall_us() -> int:
    return time.time_ns() // 1000


class Running:
    """A script that was started, and its end once there is one."""

    def __init__(
        self,
        order: Run,
        world: World,
        poller: Poller,
        group: Group | None = None,
        *,
        preforked: Preforked | None = None,
        lock: int | None = None,
    ) -> None:
        """Start the script. Raises `CannotStartError`; then nothing is left of it. `lock`
        is held until the script is there; `preforked` is to become it."""
        self._order = order
        self._poller = poller
        self._status_text = ""
        self._ready = False
        self._cause: EndCause | None = None
        self._reason: StopReason | None = None
        self._exit: ScriptExit | None = None
        self._ending: Ending | None = None
        self._detail = ""
        try:
            self._notify = NotifySocket(lambda pid: procfs.is_below(pid, os.getpid()))
        except OSError as error:
            raise CannotStartError(f"cannot open its notify socket: {error}") from None
        try:
            launch = _launch(order, self._notify.address, world.open_files)
            self._script = start(launch, preforked, lock)
        except CannotStartError:
            self._notify.close()
            raise
        self._begins_at = time.monotonic() + (order.not_before_us - wall_us()) / 1e6
        self._notify.admit(self._script.uid)
        self._tree = RunTree(world.instance, order.run_id, self.script_pid, os.getpid(), group)
        self._watchdog = Watchdog(order.watchdog_seconds, time.monotonic())
        output = Output(Path(order.output_path), order.output_bytes_max)
        self._pump = Pump(self._script.output, output, poller)
        poller.watch(self._script.pidfd)
        poller.watch(self._notify.fileno())

    @property
    def script_pid(self) -> int:
        return self._script.pid

    @property
    def began_us(self) -> int | None:
        """When the script began, by the wall clock; None where it has not."""
        return self._script.began_us or None

    def heartbeat(self) -> Heartbeat:
        reap_strays(self.script_pid)
        found = procfs.stat(self.script_pid) if self._exit is None else None
        return Heartbeat(
            self._order.run_id,
            rss_bytes=found.rss_bytes if found else 0,
            cpu_seconds=found.cpu_seconds if found else 0.0,
            status_text=self._status_text,
            ready=self._ready,
            output_lost_bytes=self._pump.lost_bytes,
        )

    def stop(self, reason: StopReason, now: float) -> None:
        """Begin a stop, or note a better reason for the one under way."""
        grace = self._order.stop_grace_seconds
        if reason is StopReason.ORPHANED:
            grace = min(grace, ORPHAN_GRACE_SECONDS_MAX)
        self._notice_exit(now)
        if self._ending is None:
            self._reason = reason
            self._begin_ending(EndCause.STOPPED, grace, now)
            self._script.call_off()
            return
        if reason is StopReason.ORPHANED:
            self._ending.shorten(grace, now)
        if self._reason is not None and overtakes(self._reason, reason):
            self._reason = reason

    def turn(self, now: float) -> RunResult | None:
        """Do what is due; the result, once the whole tree is gone."""
        if self._waits and self._let_run(now):
            return None  # that took a while: the next turn has another `now`
        self._hear_script()
        self._pump.turn(now)
        self._notice_exit(now)
        late = not self._script.held and self._watchdog.turn(now)
        if late and self._ending is None:
            self._detail = f"no WATCHDOG=1 for {self._order.watchdog_seconds:g} s"
            self._begin_ending(EndCause.WATCHDOG, self._order.stop_grace_seconds, now)
        if self._ending is not None and self._ending.turn(now):
            return self._end()
        return None

    @property
    def _waits(self) -> bool:
        return self._script.held and self._ending is None

    def _let_run(self, now: float) -> bool:
        """Exactly at its instant, and then nothing for a while, for others begin that share
        it; whether the script has begun."""
        if now < self._attention_at():
            return False
        wait_until(self._order.not_before_us, self._begins_at + SET_BACK_SECONDS_MAX)
        if not self._script.let_run():
            return False
        time.sleep(self._order.still_seconds)
        self._watchdog = Watchdog(self._order.watchdog_seconds, time.monotonic())
        return True

    def _attention_at(self) -> float:
        """The poll is exact to a millisecond, and waking up takes a share of the processor:
        the more begin together, the earlier nothing else is looked at."""
        return self._begins_at - ATTENTION_SECONDS - self._order.still_seconds / 2

    def next_deadline(self, now: float) -> float | None:
        """The monotonic instant of the next turn that is due; None where none is."""
        deadlines = [self._pump.next_deadline(now)]
        if self._waits:
            deadlines.append(max(self._attention_at(), now + HELD_LOOK_SECONDS))
        elif self._ending is None:
            deadlines.append(self._watchdog.next_deadline())
        else:
            deadlines.append(self._ending.next_deadline())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def _hear_script(self) -> None:
        for notice in self._notify.drain():
            self._ready = self._ready or notice.ready
            if notice.watchdog:
                self._watchdog.fed()
            if notice.status is not None:
                self._status_text = notice.status

    def _notice_exit(self, now: float) -> None:
        """When the script is over, so is its run: what it left behind is stopped like it."""
        if self._exit is not None:
            return
        self._exit = self._script.ended()
        if self._exit is None:
            return
        self._poller.forget(self._script.pidfd)
        if self._ending is not None:
            self._ending.hurry(now)
        else:
            self._begin_ending(EndCause.EXITED, self._order.stop_grace_seconds, now)

    def _begin_ending(self, cause: EndCause, grace_seconds: float, now: float) -> None:
        self._cause = cause
        self._ending = Ending(
            self._tree, self._order.stop_signal, grace_seconds=grace_seconds, now=now
        )

    def _end(self) -> RunResult:
        """Close what is open and say how it was. The tree is gone."""
        assert self._cause is not None
        self._notice_exit(time.monotonic())
        self._hear_script()
        self._pump.close()
        self._poller.forget(self._notify.fileno())
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
        )


def _launch(order: Run, notify_address: str, open_files: tuple[int, int] | None) -> Launch:
    environment = order.environment | {"NOTIFY_SOCKET": notify_address}
    if order.watchdog_seconds:
        environment["WATCHDOG_USEC"] = str(round(order.watchdog_seconds * 1_000_000))
    return Launch(
        order.command,
        environment,
        order.input,
        open_files,
        order.conditions,
        order.not_before_us,
        order.still_seconds,
    )
