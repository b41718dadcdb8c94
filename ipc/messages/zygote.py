"""Messages between the supervisor and the zygote, over one SEQPACKET socketpair."""

from typing import TypeAlias

from .base import Message


class ForkWorker(Message, tag="fork-worker", frozen=True):
    """Fork a worker that connects to `endpoint` under the name `name`; before that it forks
    what will be its script, if it is to do so ahead."""

    name: str
    endpoint: str
    forks_ahead: bool = False


class ForkSynchroniser(Message, tag="fork-synchroniser", frozen=True):
    name: str
    endpoint: str


ToZygote: TypeAlias = ForkWorker | ForkSynchroniser


class Forked(Message, tag="forked", frozen=True):
    """The child is there. Its pidfd comes with this message (SCM_RIGHTS)."""

    name: str
    pid: int
    start_ticks: int


class ForkFailed(Message, tag="fork-failed", frozen=True):
    name: str
    detail: str


class ChildExited(Message, tag="child-exited", frozen=True):
    """`wait_status` is raw, as `os.waitpid` gives it."""

    name: str
    pid: int
    wait_status: int


class ZygoteReady(Message, tag="zygote-ready", frozen=True):
    pid: int


FromZygote: TypeAlias = ZygoteReady | Forked | ForkFailed | ChildExited
