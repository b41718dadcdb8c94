"""Simulated workers and their scripts, as far as the daemon can tell them from real ones."""

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geosched.ipc.instants import SECOND_US, parse_instant, restated_us
from geosched.ipc.messages.runs import (
    Ack,
    EndCause,
    Ended,
    FromWorker,
    Heartbeat,
    Ready,
    Release,
    Run,
    RunResult,
    Started,
    Stop,
    StopReason,
    ToWorker,
)
from geosched.workers.runs.prefork import AHEAD_SECONDS_MAX

if TYPE_CHECKING:
    from .host import Host, Line

ENDED_AGAIN_SECONDS = 1.0
ORPHAN_GRACE_SECONDS_MAX = 3.0
KILL = 9


@dataclass(slots=True, eq=False)
class Script:
    """A script's whole tree. While `held` nothing can end it; `doomed` is killed after that."""

    run_id: str
    action_id: str
    worker: "Worker"
    held: bool = False
    doomed: bool = False


class Worker:
    """A process that the zygote forked: at most one run, ever."""

    def __init__(self, host: "Host", line: "Line", name: str, pid: int) -> None:
        self.name, self.pid = name, pid
        self.gone = self.frozen = False
        self.order: Run | None = None
        self.stop_reason: StopReason | None = None
        self.result: RunResult | None = None
        self._host, self._world, self._line = host, host.world, line
        self._latency = self._world.random.uniform(0.0002, 0.02)
        self._orphaned = False
        self._missed: deque[ToWorker | tuple[int | None, int | None]] = deque()
        self._beat_us = 0
        self._waits_until_us = 0  # monotonic
        self._begun: tuple[int, int] | None = None  # by the wall clock, and by the boot clock

    @property
    def script(self) -> Script | None:
        found = self._host.scripts.get(self.order.run_id) if self.order else None
        return found if found is not None and found.worker is self else None

    # --- what passes between it and the daemon --------------------------------------------

    def say(self, message: FromWorker) -> None:
        self._world.after(self._latency, lambda: self._line.deliver(self, message))

    def hear(self, message: ToWorker) -> None:
        """One after the other: while a script waits for its instant, nothing else is heard."""
        delay = max(self._latency, (self._waits_until_us - self._world.monotonic_us) / SECOND_US)
        if isinstance(message, Run):
            ahead = (message.not_before_us - self._world.wall_us) / SECOND_US
            delay = max(delay, min(ahead, AHEAD_SECONDS_MAX))
            self._waits_until_us = self._world.monotonic_us + round(delay * SECOND_US)
        self._world.after(delay, lambda: self._obey(message))

    def beat(self) -> Heartbeat | None:
        """A heartbeat, where one is due; they need no wake-up of their own."""
        if self.frozen or self.gone or self.order is None or self.script is None:
            return None
        if self._world.monotonic_us - self._beat_us < self.order.heartbeat_seconds * SECOND_US:
            return None
        self._beat_us = self._world.monotonic_us
        return Heartbeat(self.order.run_id, status_text="well")

    def _obey(self, message: ToWorker) -> None:
        if self.gone:
            return
        if self.frozen:
            self._missed.append(message)
            return
        match message:
            case Run() if self.order is None and not self._orphaned:
                self._begin(message)
            case Stop(run_id, reason) if self.order and self.order.run_id == run_id:
                self._stop(reason)
            case Ack(run_id) if self.result and self.result.run_id == run_id:
                self._host.kept.pop(run_id, None)
                self.leave()
            case Release() if self.order is None:
                self.leave()

    # --- a run ----------------------------------------------------------------------------

    def _begin(self, order: Run) -> None:
        self.order = order
        environment, chance = order.environment, self._world.random
        action_id = environment["GEOSCHED_ACTION_ID"]
        if not self._host.plain_scripts and self._world.chance(0.03):
            self._end(EndCause.CANNOT_START, detail="no such file")
            return
        self._host.oracle.script_starts(order.run_id, action_id)
        self._begun = self._world.wall_us, self._world.boot_us
        script = self._host.scripts[order.run_id] = Script(order.run_id, action_id, self)
        self._beat_us = self._world.monotonic_us
        self.say(Started(order.run_id, 1, self._world.wall_us))
        left = (parse_instant(environment["GEOSCHED_TO_DATE"]) - self._world.wall_us) / SECOND_US
        fate = 1.0 if self._host.plain_scripts else chance.random()
        if fate < 0.3:
            code, number = chance.choice([(0, None), (0, None), (3, None), (None, 11)])
            longest = min(max(left, 0.1), chance.choice([120.0, 20_000.0]))
            seconds = longest * chance.uniform(0, 1.1)
            self._world.after(seconds, lambda: self.exits(script, code, number))
        elif fate < 0.36:  # just when its window ends
            seconds, code = left + chance.gauss(0, 0.02), chance.choice([0, 3])
            self._world.after(seconds, lambda: self.exits(script, code, None))
        elif fate < 0.4:
            self._world.after(chance.uniform(1, 60), lambda: self._misses_watchdog(script))

    def exits(self, script: Script, code: int | None, number: int | None) -> None:
        """The script ends of itself; if it still can."""
        if self._host.scripts.get(script.run_id) is script and not script.held:
            self._script_gone(script, code, number)

    def kill(self, script: Script) -> None:
        """SIGKILL to all of its tree."""
        script.doomed = True
        self.exits(script, None, KILL)

    def _script_gone(self, script: Script, code: int | None, number: int | None) -> None:
        del self._host.scripts[script.run_id]
        if self.gone:
            self._world.note("script of %s ends, unseen", script.action_id)
        elif self.frozen:
            self._missed.append((code, number))
        else:
            self._saw_end(code, number)

    def _saw_end(self, code: int | None, number: int | None) -> None:
        self._end(EndCause.STOPPED if self.stop_reason else EndCause.EXITED, code, number)

    def _misses_watchdog(self, script: Script) -> None:
        if self.script is not script or self.frozen or self.stop_reason or script.held:
            return
        del self._host.scripts[script.run_id]
        self._end(EndCause.WATCHDOG, number=KILL, detail="no WATCHDOG=1")

    def _stop(self, reason: StopReason) -> None:
        """The first reason stays. How a script takes it is chance."""
        script = self.script
        if script is None or self.stop_reason is not None:
            return
        self.stop_reason = reason
        assert self.order is not None
        grace, chance = self.order.stop_grace_seconds, self._world.random
        if reason is StopReason.ORPHANED:
            grace = min(grace, ORPHAN_GRACE_SECONDS_MAX)
        manner = 0.0 if self._host.plain_scripts else chance.random()
        if manner < 0.75:
            code, number = chance.choice([(0, None), (None, 15), (3, None)])
            self._world.after(chance.uniform(0, grace), lambda: self.exits(script, code, number))
        elif manner < 0.82:
            self._hold(script, chance.choice([8.0, 40.0, 200.0]))
        self._world.after(grace, lambda: self.kill(script))

    def _hold(self, script: Script, seconds: float) -> None:
        """It sleeps, and nothing wakes it: not even SIGKILL."""
        self._world.note("script of %s is held for %g s", script.action_id, seconds)
        script.held = True

        def free() -> None:
            script.held = False
            if script.doomed:
                self.kill(script)

        self._world.after(seconds, free)

    def _end(
        self,
        cause: EndCause,
        code: int | None = None,
        number: int | None = None,
        detail: str = "",
    ) -> None:
        """The result is on disk before it is told."""
        assert self.order is not None
        reason = self.stop_reason if cause is EndCause.STOPPED else None
        self.result = RunResult(
            self.order.run_id,
            cause,
            self._world.wall_us,
            code,
            number,
            reason,
            detail,
            begun_us=self._begun_us,
        )
        self._host.kept[self.order.run_id] = self.result
        self._host.oracle.worker_saw_end(self.result)
        self._tell_end()
        if self._orphaned:
            self.leave()

    @property
    def _begun_us(self) -> int | None:
        if self._begun is None:
            return None
        world, (wall_us, boot_us) = self._world, self._begun
        return restated_us(
            wall_us,
            boot_us / SECOND_US,
            now_us=world.wall_us,
            now_boot_seconds=world.boot_us / SECOND_US,
        )

    def _tell_end(self) -> None:
        if self.gone or self._orphaned or self.result is None:
            return
        if not self.frozen:
            self.say(Ended(self.result))
        self._world.after(ENDED_AGAIN_SECONDS, self._tell_end)

    # --- its own end, and what else may become of it ----------------------------------------

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        if self.gone or not self.frozen:
            return
        self.frozen = False
        while self._missed:
            missed = self._missed.popleft()
            if isinstance(missed, tuple):
                self._saw_end(*missed)
            else:
                self._obey(missed)
        if self._line.closed:
            self.lose_daemon()

    def lose_daemon(self) -> None:
        """Its lifeline ends: stop the script, keep the result, leave."""
        if self.gone or self._orphaned or self.frozen:
            return
        self._orphaned = True
        if self.script is None:
            self.leave()
        else:
            self._stop(StopReason.ORPHANED)

    def leave(self) -> None:
        if not self.gone:
            self.gone = True
            self._host.workers.pop(self.name, None)
            self._line.lost(self.name)

    def be_killed(self) -> None:
        """What it held mostly dies with it; what has detached itself does not."""
        script = self.script
        if self.gone:
            return
        self.leave()
        if script is not None and self._world.chance(0.7):
            self.kill(script)

    def be_swept(self) -> None:
        """A daemon that starts ends it: script first, a moment to keep the result, then this."""
        script = self.script
        if script is not None and not self.frozen and not self._orphaned:
            self.lose_daemon()
        if script is not None:
            self.kill(script)
        self.leave()


def ready(worker: Worker) -> None:
    if not worker.gone:
        worker.say(Ready())
