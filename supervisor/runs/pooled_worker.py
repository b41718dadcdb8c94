"""A worker as the pool knows it: forked, ready, with a run, leaving."""

import msgspec

from ...ipc.sockets import Peer

#: A worker that takes longer to be ready is not relied upon: another is asked for.
READY_SECONDS_EXPECTED = 5.0


class PooledWorker(msgspec.Struct):
    """`claimed` is the peer that said it was ready, as the kernel knows it. By
    `kill_at_monotonic` it has to be ready, or gone."""

    name: str
    asked_at_monotonic: float
    forks_ahead: bool = False  # what will be its script
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
        """The zygote has told of it, too."""
        return self.claimed is not None and self.claimed.pid == self.pid

    def counts(self, now: float) -> bool:
        """A start may rely on it."""
        return self.usable and (
            self.ready or now < self.asked_at_monotonic + READY_SECONDS_EXPECTED
        )

    def is_peer(self, peer: Peer) -> bool:
        """The peer is, by the kernel's word, the process we had forked (fact Z5).

        Before the zygote's word has come, a claim is only noted; no run is given on it.
        """
        return self.pid is None or self.pid == peer.pid
