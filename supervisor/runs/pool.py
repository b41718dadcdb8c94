"""Pool of workers: armed, given a run, watched, stopped, acknowledged. Decides about no status.

`start` and `stop` carry out effects that are committed; `gather` finds how runs ended. A run
is here from `start` until `acknowledge`, which the loop calls once its end is on disk. Where
a worker dies or falls silent, its run's whole tree is ended here, before the run counts as
ended (law 12).
"""

import logging

from msgspec.structs import replace

from ...ipc.failpoints import Step, step
from ...ipc.instants import SECOND_US
from ...ipc.messages.runs import (
    Ack,
    EndCause,
    Ended,
    FromWorker,
    Heartbeat,
    Ready,
    Release,
    RunResult,
    Started,
    Stop,
    StopReason,
    ToWorker,
)
from ...ipc.sockets import Peer, Server
from ...ipc.wire import ProtocolError
from ...workers.host import procfs
from ...workers.host.liveness import JudgeClock
from ..core.model import Instant
from ..host.children import Children
from ..participant import News, Participant
from .cleanup import RunCleanup
from .fork_pace import ForkPace
from .live_run import LiveRun, looks_of
from .lost_trees import KILL_AGAIN_SECONDS, STUCK_AFTER_SECONDS
from .pooled_worker import ActivityOf, PooledWorker

log = logging.getLogger(__name__)

MESSAGES_PER_TURN_MAX = 500
#: Runs that wait for workers begin together, in one commit, with those that are ready within
#: this time.
TOGETHER_SECONDS = 0.01
#: Workers keep still this long after an instant, for each script that begins at it: their own
#: work would make the last scripts late.
STILL_SECONDS_EACH = 0.0007
STILL_SECONDS_MAX = 0.35
#: A stop that could not be sent is sent again after this time.
RESEND_SECONDS = 1.0
NOT_STARTED = "stopped before it was started"


class Pool(Participant):
    """The workers and the live runs.

    `ended` has the results of the last `gather`; a run's result comes again in each until it
    is acknowledged.
    """

    def __init__(
        self,
        server: Server[FromWorker, ToWorker],
        children: Children,
        cleanup: RunCleanup,
        judge: JudgeClock,
        *,
        activity_of: ActivityOf = procfs.activity,
    ) -> None:
        self.server = server
        self.children = children
        self.cleanup = cleanup
        self.judge = judge
        self._activity_of = activity_of
        self.runs: dict[str, LiveRun] = {}
        self.ended: list[RunResult] = []
        self.bad_messages = 0
        self._workers: dict[str, PooledWorker] = {}
        self._waiting: list[str] = []
        self._number = 0
        self._awaited: set[str] = set()  # ids of runs that are stopped before their time
        self._unheard = False
        self._now_monotonic = 0.0
        self._pace = ForkPace()
        self._free_since_monotonic: float | None = None
        self._promise_at_monotonic: float | None = None
        self._look_at_monotonic = 0.0  # for workers that hang

    # --- effects ------------------------------------------------------------------------

    def committed(self, now: Instant) -> None:
        """Count the deadlines of workers from now on: the commit since `gather` may have stalled
        for longer than they last."""
        self._now_monotonic = now.monotonic_seconds

    def start(self, run: LiveRun) -> None:
        """Queue the run for `hand_out`."""
        run.last_beat = self.judge.seconds
        self.runs[run.run_id] = run
        self._waiting.append(run.run_id)
        self._free_since_monotonic = None

    def stop(self, run_id: str, reason: StopReason, now: Instant) -> None:
        """Ask the run to stop: at once, or at the end of its window where that is a moment ahead.
        Repeating it does no harm."""
        run = self.runs.get(run_id)
        if run is None or run.result is not None:
            return
        run.stop = reason
        if reason is not StopReason.WINDOW_OVER:
            self._awaited.add(run_id)
        if run.ending is not None:
            return  # there is no worker to ask, and its tree is ended at once
        grace = run.stop_grace_seconds
        run.stop_at_monotonic = now.monotonic_seconds
        run.stuck_at_monotonic = now.monotonic_seconds + grace + STUCK_AFTER_SECONDS
        if reason is StopReason.WINDOW_OVER and now.monotonic_seconds > self._now_monotonic:
            return  # `_watch` does it at that instant
        if run.worker is None:
            self._end_unheard(run, EndCause.STOPPED, NOT_STARTED, now)
        else:
            self._send_stop(run, now)

    def fail(self, run: LiveRun, cause: EndCause, detail: str, now: Instant) -> None:
        """End a run that cannot be started, before any worker is given it."""
        self.runs[run.run_id] = run
        self._end_unheard(run, cause, detail, now)

    def _end_unheard(self, run: LiveRun, cause: EndCause, detail: str, now: Instant) -> None:
        """End a run between two `gather`s, of which the next has to report it."""
        run.end(cause, detail, now)
        self._unheard = True

    def acknowledge(self, run_id: str) -> None:
        """Forget a run whose end is committed: its result need not be kept any more."""
        run = self.runs.pop(run_id, None)
        self._pace.ended(self._now_monotonic)
        self._awaited.discard(run_id)
        worker = self._workers.get(run.worker) if run and run.worker else None
        if worker is not None:
            # Sent or not: once the worker is gone, all that it left of the run is removed.
            worker.acknowledged = run_id
            if self._send_ack(worker, run_id):
                worker.run_id = None
                worker.leave(self.judge.seconds)
        elif run is not None and run.worker is not None:
            self.cleanup.forget_run(run_id)
        else:
            self.cleanup.forget_result(run_id)

    def _send_ack(self, worker: PooledWorker, run_id: str) -> bool:
        with step(Step.SEND_ACK):
            return self.server.send(worker.name.encode(), Ack(run_id))

    @property
    def turnover(self) -> int:
        """Number of workers to have for slots that become free, as fast as they lately did."""
        return self._pace.turnover(self.idle, self._now_monotonic)

    @property
    def idle(self) -> int:
        """Number of workers that are ready or being forked, beyond those that runs wait for."""
        return sum(worker.usable for worker in self._workers.values()) - len(self._waiting)

    def promise(self, wanted: int, now: Instant) -> int:
        """Return how many workers are ready and promised to no run; for a moment none, while
        fewer are than are wanted and others may follow."""
        free = sum(worker.free for worker in self._workers.values()) - len(self._waiting)
        self._promise_at_monotonic = None
        if free <= 0:
            self._free_since_monotonic = None
            return 0
        if self._free_since_monotonic is None:
            self._free_since_monotonic = now.monotonic_seconds
        until_monotonic = self._free_since_monotonic + TOGETHER_SECONDS
        if free < wanted and now.monotonic_seconds < until_monotonic:
            self._promise_at_monotonic = until_monotonic
            return 0
        return free

    def begun(self, run_id: str, now: Instant) -> int | None:
        """Return the instant at which a run's script began, as its worker told."""
        run = self.runs.get(run_id)
        return None if run is None else run.begun(now)

    def arm(self, near: int, spare: int) -> None:
        """Have `near` and `spare` workers ready, or being forked, beyond those with a run. The
        former fork the process of their script ahead, which in spare ones only takes memory."""
        idle = [worker for worker in self._workers.values() if worker.usable]
        may_fork = self._pace.more(sum(not worker.ready for worker in idle), self._now_monotonic)
        for forks_ahead, count in ((True, near + len(self._waiting)), (False, spare)):
            there = [worker for worker in idle if worker.forks_ahead is forks_ahead]
            forked = max(0, min(count - len(there), may_fork))
            for _ in range(forked):
                self._fork(forks_ahead=forks_ahead)
            may_fork -= forked
            for worker in [w for w in there if w.ready][: max(0, len(there) - count)]:
                self.server.send(worker.name.encode(), Release())
                worker.leave(self.judge.seconds)

    # --- gather -------------------------------------------------------------------------

    def gather(self, news: News, now: Instant) -> None:
        """Read the messages of all workers, then judge their silence."""
        self._unheard = False
        for name, pid in news.forked.items():
            self._forked(name, pid)
        heard = self._hear(now)
        self._now_monotonic = now.monotonic_seconds
        for name in (*news.gone, *news.failed):
            self._lost(name, now)
        self.judge.tick(now.monotonic_seconds, looks_of(self.runs.values()))
        self._judge_workers(now)
        self._end_lost(now)
        for run in list(self.runs.values()):
            self._watch(run, now)
        self.hand_out()
        ended = [run.result for run in self.runs.values() if run.result is not None]
        self.ended = ended + [result for result in heard if result.run_id not in self.runs]

    def next_deadline(self, now: Instant) -> float | None:
        """Return the instant at which to look at a run again: now where one has ended since the
        last `gather`."""
        if self._unheard:
            return now.monotonic_seconds
        look_at = now.monotonic_seconds + looks_of(self.runs.values())
        deadlines = [due for run in self.runs.values() for due in run.deadlines(look_at)]
        if any(worker.judge is not None for worker in self._workers.values()):
            deadlines.append(self._look_at_monotonic)
        pace_due = self._pace.next_deadline(now.monotonic_seconds)
        waits = (self._promise_at_monotonic, pace_due, self.cleanup.next_deadline(now))
        return min([*deadlines, *(due for due in waits if due is not None)], default=None)

    @property
    def waits(self) -> bool:
        """A run waits for a worker that is ready."""
        return bool(self._waiting)

    @property
    def hurries(self) -> bool:
        """Somebody waits for what workers say: for one that is ready, or for the end of a run that
        a person, the backend or another attempt has stopped."""
        return bool(self._waiting or self._awaited)

    @property
    def output_lost_bytes(self) -> int:
        """Output that a failing log directory cost the live runs."""
        return sum(run.output_lost_bytes for run in self.runs.values())

    def _hear(self, now: Instant) -> list[RunResult]:
        """Read messages; return the results of runs that are not, or no longer, in the pool."""
        unknown: list[RunResult] = []
        for peer, message in self.server.drain(MESSAGES_PER_TURN_MAX):
            worker = self._workers.get(peer.routing_id.decode("ascii", "replace"))
            if isinstance(message, ProtocolError) or worker is None or not worker.is_peer(peer):
                self._refuse(peer, message)
                continue
            match message:
                case Ready():
                    self._ready(worker, peer, now)
                case Started(run_id, script_pid, at_us):
                    self._started(run_id, script_pid, at_us, now)
                case Heartbeat():
                    self._beat(message, now)
                case Ended(result):
                    run = self.runs.get(result.run_id)
                    if run is None:
                        unknown.append(result)
                        self.server.send(peer.routing_id, Ack(result.run_id))
                    elif run.result is None and run.ending is None:
                        with step(Step.HEAR_ENDED):
                            run.result = result
        return unknown

    def _refuse(self, peer: Peer, message: FromWorker | ProtocolError) -> None:
        """Refuse a peer that is not, or no longer, a worker of ours: its zygote may have died
        before it told of the fork."""
        if isinstance(message, Ready):
            self.server.send(peer.routing_id, Release())
        self.bad_messages += 1
        log.warning(
            "Refused a message on the worker socket from pid %d (uid %d): %s",
            peer.pid,
            peer.uid,
            message if isinstance(message, ProtocolError) else "it is no worker of ours",
            extra={"event": "bad-message", "askedBy": peer.uid},
        )

    def _forked(self, name: str, pid: int) -> None:
        worker = self._workers.get(name)
        if worker is not None:
            worker.pid = pid
            if not worker.ready:  # its READY may come first
                worker.expect(self.judge.seconds)

    def _ready(self, worker: PooledWorker, peer: Peer, now: Instant) -> None:
        worker.claimed = peer
        if worker.usable and not worker.ready:
            worker.ready, worker.judge = True, None
            self._pace.became_ready(now.monotonic_seconds)

    def _started(self, run_id: str, script_pid: int, at_us: int, now: Instant) -> None:
        run = self.runs.get(run_id)
        if run is not None:
            run.script_pid, run.begun_us = script_pid, at_us
            run.begun_boot_seconds = now.boot_seconds - (now.wall_us - at_us) / SECOND_US
            run.last_beat, run.last_beat_us = self.judge.seconds, now.wall_us

    def _beat(self, beat: Heartbeat, now: Instant) -> None:
        run = self.runs.get(beat.run_id)
        if run is not None:
            run.last_beat, run.last_beat_us = self.judge.seconds, now.wall_us
            run.status_text = beat.status_text
            if beat.rss_bytes:  # else the script could not be measured
                run.rss_bytes, run.cpu_seconds = beat.rss_bytes, beat.cpu_seconds
            run.output_lost_bytes = beat.output_lost_bytes

    def _lost(self, name: str, now: Instant) -> None:
        worker = self._workers.pop(name, None)
        if worker is not None and worker.usable and not worker.ready:
            self._pace.failed(self._now_monotonic)
        if worker is not None and worker.acknowledged is not None:
            self.cleanup.forget_run(worker.acknowledged)  # it may not have read the Ack
        if worker is None or worker.run_id is None:
            return
        run = self.runs.get(worker.run_id)
        if run is not None and run.result is None and run.ending is None:
            self._lose(run, EndCause.WORKER_LOST, "its worker was killed or crashed", now)

    # --- watch --------------------------------------------------------------------------

    def _watch(self, run: LiveRun, now: Instant) -> None:
        if run.result is not None or run.stop_at_monotonic is None:
            return
        if now.monotonic_seconds < run.stop_at_monotonic:
            return
        if run.worker is None:
            run.end(EndCause.STOPPED, NOT_STARTED, now)
        else:
            self._send_stop(run, now)

    def _give_up(self, run: LiveRun, now: Instant) -> None:
        """End a run whose worker was silent for too long, and is killed: it cannot interfere."""
        log.warning(
            "The worker of run %s of action %s is silent; ending it",
            run.run_id,
            run.action_id,
            extra={"event": "worker-silent", "id": run.action_id, "runId": run.run_id},
        )
        detail = f"its worker was silent for {run.heartbeat_timeout_seconds:g} s"
        self._lose(run, EndCause.WORKER_SILENT, detail, now)

    def _lose(self, run: LiveRun, cause: EndCause, detail: str, now: Instant) -> None:
        self.cleanup.forget_tree(run.run_id)  # it may have been killed before, with its worker
        run.lose(cause, detail, now)

    def _end_lost(self, now: Instant) -> None:
        """Have what is left of lost runs ended; each has ended once nothing is."""
        lost = [run for run in self.runs.values() if run.ending and run.result is None]
        if lost:
            self.children.reap()  # after many forks, zombies would make every look slow
        trees = [self.cleanup.end_tree(run.run_id, run.script_pid, run.worker) for run in lost]
        self.cleanup.gather(now, runs=bool(self.runs))
        for run, tree in zip(lost, trees, strict=True):
            worker_lives = run.worker is not None and self.children.get(run.worker) is not None
            if tree.gone and not worker_lives:
                self._settle_lost(run, now)
            elif tree.looked_monotonic is not None:
                run.stuck_at_monotonic = tree.looked_monotonic + STUCK_AFTER_SECONDS
                run.notice_stuck(now)

    def _settle_lost(self, run: LiveRun, now: Instant) -> None:
        """The worker may have kept a result just before it died: it saw the script's end."""
        self.cleanup.tree_is_gone(run.run_id)
        run.result = self.cleanup.kept_result(run.run_id)
        if run.result is None:
            run.end_lost(now)

    def _send_stop(self, run: LiveRun, now: Instant) -> None:
        assert run.worker is not None
        assert run.stop is not None
        with step(Step.SEND_STOP):
            sent = self.server.send(run.worker.encode(), Stop(run.run_id, run.stop))
        run.notice_stuck(now)
        if not sent:
            run.stop_at_monotonic = now.monotonic_seconds + RESEND_SECONDS
        elif run.stuck:
            self.cleanup.forget_tree(run.run_id)
            self.cleanup.end_tree(run.run_id, run.script_pid, run.worker)
            run.stop_at_monotonic = now.monotonic_seconds + KILL_AGAIN_SECONDS
        else:
            run.stop_at_monotonic = run.stuck_at_monotonic

    # --- workers ------------------------------------------------------------------------

    def _fork(self, *, forks_ahead: bool) -> None:
        self._number += 1
        name = f"worker-{self._number}"
        self._workers[name] = PooledWorker(name, forks_ahead)
        self.children.fork_worker(name, self.server.endpoint, forks_ahead=forks_ahead)

    def hand_out(self) -> None:
        """Give waiting runs to workers that are free, to those that have forked ahead first."""
        if not self._waiting:
            return
        waiting = {run_id: self.runs.get(run_id) for run_id in self._waiting}
        self._waiting = [run_id for run_id, run in waiting.items() if run and run.waits]
        still_seconds = min(len(self._waiting) * STILL_SECONDS_EACH, STILL_SECONDS_MAX)
        free = [worker for worker in self._workers.values() if worker.free]
        for worker in sorted(free, key=lambda worker: not worker.forks_ahead):
            if not self._waiting:
                return
            run = self.runs[self._waiting[0]]
            assert run.order is not None  # without one it is never started
            order = replace(run.order, still_seconds=still_seconds)
            with step(Step.SEND_RUN):
                sent = self.server.send(worker.name.encode(), order)
            if not sent:
                worker.leave(self.judge.seconds)  # it does not read its messages
                continue
            self._waiting.pop(0)
            worker.ready, worker.run_id = False, run.run_id
            run.worker, run.worker_pid = worker.name, worker.pid
            run.last_beat = self.judge.seconds

    def _judge_workers(self, now: Instant) -> None:
        """Kill workers that hang; their pidfds tell when they are gone. Silence alone is none."""
        if now.monotonic_seconds < self._look_at_monotonic:
            return
        self._look_at_monotonic = now.monotonic_seconds + looks_of(self.runs.values())
        for worker in self._workers.values():
            run = self.runs.get(worker.run_id or "")
            if run is not None:
                worker.expect_beat(self.judge.seconds, run.last_beat, run.beat_timeout_seconds)
            if worker.hangs(self.judge.seconds, self._activity_of):
                log.warning("%s hangs; killing it", worker.name, extra={"event": "worker-hangs"})
                worker.leave(self.judge.seconds)
                self.children.kill(worker.name)
                if run is not None:
                    self._give_up(run, now)

    def release_all(self) -> None:
        """Tell idle workers to leave: there will be no more runs."""
        for worker in self._workers.values():
            if worker.run_id is None:
                self.server.send(worker.name.encode(), Release())
