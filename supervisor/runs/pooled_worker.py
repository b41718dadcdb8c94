"""A worker as the pool knows it: forked, ready, with a run, leaving."""

import msgspec

from ...ipc.sockets import Peer

#: A worker that takes longer to be ready is not relied upon: another is asked for.
READY_SECONDS_EXPECTED = 5.0


class PooledWorker(msgspec.Struct):
    """A worker of the pool. `claimed` is the peer that sent READY under its name, as the kernel
    knows it. By `kill_at_monotonic` the worker has to be ready, or gone."""

    name: str
    asked_at_monotonic: float
    forks_ahead: bool = False  # it forks the process of its script ahead
    pid: int | None = None
    claimed: Peer | None = None
    ready: bool = False
    run_id: str | None = None
    leaving: bool = False
    acknowledged: str | None = None
    kill_at_monotonic: float | None = None

    @property
    def usable(self) -> bool:
        """A run can be given to it, now or once it is ready."""
        return self.run_id is None and not self.leaving

    @property
    def known(self) -> bool:
        """The zygote has confirmed the pid of the peer that claims to be it."""
        return self.claimed is not None and self.claimed.pid == self.pid

    def counts(self, now: float) -> bool:
        """A start may rely on it."""
        return self.usable and (
            self.ready or now < self.asked_at_monotonic + READY_SECONDS_EXPECTED
        )

    def is_peer(self, peer: Peer) -> bool:
        """The peer is, by the kernel's word, the process that was forked for us (fact Z5).

        Until the zygote has confirmed its pid, a claim is only noted, and no run is given to it.
        """
        return self.pid is None or self.pid == peer.pid
