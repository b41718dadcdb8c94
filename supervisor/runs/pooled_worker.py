"""A worker as the pool knows it: forked, ready, with a run, leaving. Decides nothing."""

import msgspec

from ...ipc.sockets import Peer

#: One that takes longer than this is not waited for: another is asked for.
READY_SECONDS_EXPECTED = 5.0


class PooledWorker(msgspec.Struct):
    """`claimed` is who said that it is ready, by the kernel's word."""

    name: str
    asked_at: float  # monotonic
    forks_ahead: bool = False  # what will be its script
    pid: int | None = None
    claimed: Peer | None = None
    ready: bool = False
    run_id: str | None = None
    leaving: bool = False
    acknowledged: str | None = None
    kill_at: float | None = None  # monotonic: it has to be ready, or gone, by then

    @property
    def usable(self) -> bool:
        """Whether a run can be given to it, now or once it is ready."""
        return self.run_id is None and not self.leaving

    @property
    def known(self) -> bool:
        """Whether the zygote has told of it, too."""
        return self.claimed is not None and self.claimed.pid == self.pid

    def counts(self, now: float) -> bool:
        """Whether a start may rely on it."""
        return self.usable and (self.ready or now < self.asked_at + READY_SECONDS_EXPECTED)

    def is_peer(self, peer: Peer) -> bool:
        """Whether the kernel says that the peer is the process we had forked (fact Z5).

        Before the zygote's word has come, a claim is only noted; no run is given on it.
        """
        return self.pid is None or self.pid == peer.pid
