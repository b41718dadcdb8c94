"""Messages between the supervisor and its helpers, over one SEQPACKET socketpair each."""

from typing import TypeAlias

from .base import Message, Pid


class ReadOutput(Message, tag="read-output", frozen=True):
    """Read output of a run, as `read_output` does."""

    path: str
    offset: int
    bytes_max: int


class RemoveFiles(Message, tag="remove-files", frozen=True):
    """Remove files. One that is not there is none to complain of."""

    paths: tuple[str, ...]


class NameUser(Message, tag="name-user", frozen=True):
    """Look up the name of a user: a name service may have to be asked."""

    uid: int


class EndTree(Message, tag="end-tree", frozen=True):
    """Do one round of SIGKILL to a run whose worker is dead or silent. `adopter` is the subreaper
    to which its orphans come, `worker` "" where none is known."""

    run_id: str
    script_pid: Pid | None
    worker: str
    adopter: Pid


ToHelper: TypeAlias = ReadOutput | RemoveFiles | NameUser | EndTree


class OutputRead(Message, tag="output-read", frozen=True):
    """A part of the output; reading goes on at `offset + len(data)`."""

    offset: int
    data: bytes


class UserNamed(Message, tag="user-named", frozen=True):
    """The name of a user, "" where there is none."""

    name: str


class FilesRemoved(Message, tag="files-removed", frozen=True):
    """All that can be removed is."""


class TreeEnded(Message, tag="tree-ended", frozen=True):
    """The round is done; `gone` tells that nothing was left of the run."""

    gone: bool


class Failed(Message, tag="failed", frozen=True):
    """The host refused; `detail` has its reason. `missing`: the file is not there."""

    detail: str
    missing: bool = False


FromHelper: TypeAlias = OutputRead | UserNamed | FilesRemoved | TreeEnded | Failed
