"""A worker as the pool knows it: forked, ready, with a run, leaving."""

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from ...ipc.sockets import Peer
from ...workers.host.liveness import Activity, HangJudge, is_silent

ActivityOf: TypeAlias = Callable[[int], Activity | None]

#: A worker hangs that is to become ready, to leave, or to send a heartbeat, and neither ran nor
#: was runnable for this long (of a heartbeat: half its time-out), or used this much processor
#: time over it.
IDLE_SECONDS_MAX = 5.0
CPU_SECONDS_MAX = 10.0


class PooledWorker(msgspec.Struct):
    """A worker of the pool. `claimed` is the peer that sent READY under its name, as the kernel
    knows it. `judge` is there while it is to become ready, to leave, or to break its silence."""

    name: str
    forks_ahead: bool = False  # it forks the process of its script ahead
    pid: int | None = None
    claimed: Peer | None = None
    ready: bool = False
    run_id: str | None = None
    leaving: bool = False
    acknowledged: str | None = None
    judge: HangJudge | None = None

    @property
    def usable(self) -> bool:
        """A run can be given to it, now or once it is ready."""
        return self.run_id is None and not self.leaving

    @property
    def known(self) -> bool:
        """The zygote has confirmed the pid of the peer that claims to be it."""
        return self.claimed is not None and self.claimed.pid == self.pid

    @property
    def free(self) -> bool:
        """A run can be given to it now."""
        return self.ready and self.known

    def is_peer(self, peer: Peer) -> bool:
        """The peer is, by the kernel's word, the process that was forked for us (fact Z5).

        Until the zygote has confirmed its pid, a claim is only noted, and no run is given to it.
        """
        return self.pid is None or self.pid == peer.pid

    def leave(self, judged_seconds: float) -> None:
        """Promise no run to it any more, and judge it until it is gone."""
        self.ready = False
        self.leaving = True
        self.expect(judged_seconds)

    def expect(self, judged_seconds: float, idle_seconds_max: float = IDLE_SECONDS_MAX) -> None:
        """Judge it from now on, by the pool's judge clock: something is expected of it."""
        self.judge = HangJudge(
            judged_seconds,
            None,
            idle_seconds_max=idle_seconds_max,
            cpu_seconds_max=CPU_SECONDS_MAX,
        )

    def expect_beat(
        self, judged_seconds: float, last_beat: float, timeout_seconds: float | None
    ) -> None:
        """Judge it from half of the time-out after its last heartbeat on; None expects none."""
        half_seconds = (timeout_seconds or 0.0) / 2
        overdue = is_silent(last_beat, judged_seconds, timeout_seconds=half_seconds)
        if timeout_seconds is None or not overdue:
            self.judge = None
        elif self.judge is None:
            self.expect(judged_seconds, half_seconds)

    def hangs(self, judged_seconds: float, activity_of: ActivityOf) -> bool:
        """It does nothing of what is expected of it. Its zygote answers for one that is not forked
        yet."""
        if self.judge is None or self.pid is None:
            return False
        return self.judge.hangs(judged_seconds, activity_of(self.pid))
