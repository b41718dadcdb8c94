"""Helper of the supervisor: makes calls that may wait, which the supervisor must not.

One request at a time, over the socket that it was forked with; the supervisor kills a helper that
takes too long, and asks another. It leaves when that socket is closed.
"""

import contextlib
import logging
import pwd
import socket
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeAlias, assert_never

import msgspec
from msgspec.structs import replace
from setproctitle import setproctitle

from ..ipc.messages.helper import (
    EndTrees,
    Failed,
    FilesRemoved,
    FindUsers,
    FromHelper,
    LostRun,
    OutputRead,
    ReadOutput,
    RemoveFiles,
    ToHelper,
    TreesEnded,
    UsersFound,
)
from ..ipc.paths import Runtime
from ..ipc.wire import ProtocolError, decoded
from .host.cgroups import Containment
from .host.process_tree import RunTree, end_trees
from .runfiles.output import read_output, remove_output
from .runfiles.run_lock import noted_script

log = logging.getLogger(__name__)

#: More than any request takes; the kernel's buffers hold no larger message.
REQUEST_BYTES_MAX = 192 * 1024

_Decode: TypeAlias = Callable[[bytes | memoryview], ToHelper]


def main(served: int, mark: str, containment: Containment, runtime: Runtime) -> int:
    """Serve the socket, in the calling process. Returns its exit status."""
    setproctitle("geosched: helper")
    decode: _Decode = msgspec.msgpack.Decoder(ToHelper).decode
    with socket.socket(fileno=served) as requests:
        while request := requests.recv(REQUEST_BYTES_MAX):
            asked = decoded([request], decode)
            if isinstance(asked, ProtocolError):
                answer: FromHelper = Failed(str(asked))
            else:
                answer = carry_out(asked, mark, containment, runtime)
            try:
                requests.send(msgspec.msgpack.encode(answer))
            except (BrokenPipeError, ConnectionResetError):
                break  # the supervisor waits for it no longer
    return 0


def carry_out(
    request: ToHelper, mark: str, containment: Containment, runtime: Runtime
) -> FromHelper:
    """Carry out a request for a daemon, whose scripts carry `mark`. It may wait: for a disk, for a
    name service."""
    try:
        match request:
            case ReadOutput(path, offset, bytes_max):
                chunk = read_output(Path(path), offset, bytes_max)
                return OutputRead(chunk.offset, chunk.data)
            case RemoveFiles(paths):
                for path in paths:
                    _remove(path)
                return FilesRemoved()
            case FindUsers(names):
                return UsersFound(_uids(names))
            case EndTrees(runs, adopter):
                lost = partial(_tree, mark=mark, containment=containment, runtime=runtime)
                trees = [lost(run, adopter) for run in runs]
                ended = end_trees(trees)
                return TreesEnded(tuple(ended.gone), ended.witnesses)
    except OSError as error:
        return Failed(str(error), missing=isinstance(error, FileNotFoundError))
    assert_never(request)


def _uids(names: Iterable[str]) -> dict[str, int]:
    """Return the uid of each name that is a user's."""
    found: dict[str, int] = {}
    for name in names:
        with contextlib.suppress(KeyError):
            found[name] = pwd.getpwnam(name).pw_uid
    return found


def _tree(
    run: LostRun, adopter: int, *, mark: str, containment: Containment, runtime: Runtime
) -> RunTree:
    """Return the tree of a run. Its script is known by the note in the run's lock, too, where its
    worker died before it told of it."""
    group = containment.group(run.worker) if run.worker else None
    tree = RunTree(
        mark,
        run.run_id,
        run.script_pid,
        group=group,
        adopter=adopter,
        just_lost=run.just_lost,
        witness=run.witness,
    )
    noted = noted_script(runtime, run.run_id)
    if noted is None:
        return tree
    return replace(
        tree,
        script_pid=noted.process.pid,
        script_ticks=noted.process.start_ticks,
        users=frozenset((noted.user,)),
    )


def _remove(path: str) -> None:
    try:
        remove_output(Path(path))
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("Cannot remove %s: %s", path, error, extra={"event": "output-left"})
