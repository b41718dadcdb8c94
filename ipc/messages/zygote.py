"""Messages between the supervisor and the zygote, over one SEQPACKET socketpair.

Descriptors that come with a request (SCM_RIGHTS) are the child's; the zygote keeps none.
"""

from typing import TypeAlias

from .base import Message, Pid
from .sync import BackendAddress


class ForkWorker(Message, tag="fork-worker", frozen=True):
    """Fork a worker, which connects to `endpoint` under the name `name`. With `forks_ahead` it
    forks the process of its script before that."""

    name: str
    endpoint: str
    forks_ahead: bool = False


class ForkSynchroniser(Message, tag="fork-synchroniser", frozen=True):
    """Fork a synchroniser of a backend, which serves the socket that comes with the message; under
    root, with a broker of the files that `backend` names."""

    name: str
    backend: BackendAddress


class ForkLogRelay(Message, tag="fork-log-relay", frozen=True):
    """Fork the relay of the log. With it come the log's end to read, and standard error."""

    name: str


class ForkHelper(Message, tag="fork-helper", frozen=True):
    """Fork a helper, which serves the socket that comes with the message."""

    name: str


ToZygote: TypeAlias = ForkWorker | ForkSynchroniser | ForkLogRelay | ForkHelper


class Forked(Message, tag="forked", frozen=True):
    """The child was forked. Its pidfd comes with this message (SCM_RIGHTS), and tells of its
    end."""

    name: str
    pid: Pid


class ForkFailed(Message, tag="fork-failed", frozen=True):
    """The child could not be forked; `detail` is for the log."""

    name: str
    detail: str


class ZygoteReady(Message, tag="zygote-ready", frozen=True):
    """The zygote has imported what its children need: from here on it answers at once.
    `immortal_heap` is that of `StatusView`."""

    immortal_heap: str = ""


FromZygote: TypeAlias = ZygoteReady | Forked | ForkFailed
