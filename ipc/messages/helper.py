"""Messages between the supervisor and its helpers, over one SEQPACKET socketpair each."""

from typing import TypeAlias

import msgspec

from .base import Count, Message, Pid


class ReadOutput(Message, tag="read-output", frozen=True):
    """Read output of a run, as `read_output` does."""

    path: str
    offset: int
    bytes_max: int


class RemoveFiles(Message, tag="remove-files", frozen=True):
    """Remove files. One that is not there is none to complain of."""

    paths: tuple[str, ...]


class FindUsers(Message, tag="find-users", frozen=True):
    """Look up users by their names: a name service may have to be asked."""

    names: tuple[str, ...]


class LostRun(Message, tag="lost-run", frozen=True):
    """A run whose worker is dead or silent. `worker` is "" where none is known. `just_lost`: it
    was seconds ago. `witness` is a member of its session that an earlier round has seen there, by
    its pid and start."""

    run_id: str
    script_pid: Pid | None
    worker: str
    just_lost: bool = False
    witness: tuple[Pid, Count] | None = None


class EndTrees(Message, tag="end-trees", frozen=True):
    """Do one round of SIGKILL to lost runs. `adopter` is the subreaper to which their orphans
    come."""

    runs: tuple[LostRun, ...]
    adopter: Pid


ToHelper: TypeAlias = ReadOutput | RemoveFiles | FindUsers | EndTrees


class OutputRead(Message, tag="output-read", frozen=True):
    """A part of the output; reading goes on at `offset + len(data)`."""

    offset: int
    data: bytes


class UsersFound(Message, tag="users-found", frozen=True):
    """The uid of each name that is a user's."""

    uids: dict[str, int]


class FilesRemoved(Message, tag="files-removed", frozen=True):
    """All that can be removed is."""


class TreesEnded(Message, tag="trees-ended", frozen=True):
    """The round is done; `gone` has the ids of the runs of which nothing was left, `witnesses` the
    witnesses of others, by their ids."""

    gone: tuple[str, ...]
    witnesses: dict[str, tuple[Pid, Count]] = msgspec.field(default_factory=dict)


class Failed(Message, tag="failed", frozen=True):
    """The host refused; `detail` has its reason. `missing`: the file is not there."""

    detail: str
    missing: bool = False


FromHelper: TypeAlias = OutputRead | UsersFound | FilesRemoved | TreesEnded | Failed
