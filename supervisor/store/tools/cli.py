"""Command line for work on a store's files: `python -m geosched.supervisor.store.tools.cli`.

The daemon runs it to salvage a damaged store and to back up its own; `geosched-ctl db` runs
it for an operator. It prints one JSON document (`export`: one a line) and ends with the
process that started it. Only `replace`, `compact` and `restore` change a store, and only one
that no daemon uses.
"""

import argparse
import contextlib
import errno
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO

import msgspec

from ....ipc import standard_streams
from ....ipc.foreign_text import visible
from ....ipc.messages.control import SCHEMA_VERSION
from ....ipc.signals import signal_name
from ....workers.host.dirfd import Directory, UntrustedError
from ....workers.host.files import UMASK, open_regular
from ....workers.host.linux import set_parent_death_signal
from ...host.locks import AlreadyRunningError, DirectoryLock
from .. import files, lmdb_env, py_lmdb
from ..daemondb import MAP_BYTES
from ..errors import StoreError
from ..files import StorePaths
from ..repair import incidents
from ..repair.findings import Examination
from ..repair.salvage import Salvage
from . import backups, child_process, dump, examiner, replace
from .child_process import ChildProcess
from .owner import Owner, become, other_owner

#: Exit codes of `geosched-ctl`, which passes them on.
EXIT_FAILED, EXIT_NOT_PERMITTED, EXIT_IN_USE, EXIT_INTERRUPTED = 1, 4, 6, 130
#: A reader that hangs would keep the pages of its snapshot from being used again.
SECONDS_MAX = 3600


def main(arguments: Sequence[str] | None = None) -> None:
    standard_streams.complete()
    os.umask(UMASK)
    options = _parser().parse_args(arguments)
    set_parent_death_signal(signal.SIGKILL)
    signal.alarm(SECONDS_MAX)
    _carry_out(options, options.work)


def _carry_out(options: argparse.Namespace, work: Callable[[argparse.Namespace], None]) -> None:
    """Do the work; exit with a reason where that fails."""
    try:
        options.owner = other_owner(options.state_dir)
        if options.owner is not None:
            py_lmdb.verifier()  # its module may be root's alone
        work(options)
    except AlreadyRunningError as error:
        _fail(str(error), EXIT_IN_USE)
    except KeyboardInterrupt:
        _leave(EXIT_INTERRUPTED)
    except BrokenPipeError:
        _leave(EXIT_FAILED)
    except StoreError as error:
        _fail(str(error), _code_of(error.__cause__))
    except UntrustedError as error:
        _fail(f"cannot {options.verb}: others can write it: {error}", EXIT_FAILED)
    except OSError as error:
        where = error.filename or "the output"
        _fail(f"cannot {options.verb} {where}: {error.strerror or error}", _code_of(error))


def _code_of(error: BaseException | None) -> int:
    """Return the exit code for an error of the system's or of LMDB's."""
    not_permitted = py_lmdb.code_of(error) in (errno.EACCES, errno.EPERM)
    return EXIT_NOT_PERMITTED if not_permitted else EXIT_FAILED


def _fail(why: str, code: int) -> None:
    print(visible(why), file=sys.stderr)
    _leave(code)


def _leave(code: int) -> None:
    """Exit without flushing: the output may take no more, or never be read."""
    standard_streams.give_up(sys.stdout)
    raise SystemExit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="storetool", description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(required=True)

    def verb(
        name: str, work: Callable[[argparse.Namespace], None], *arguments: str
    ) -> argparse.ArgumentParser:
        command = verbs.add_parser(name)
        command.set_defaults(work=work, verb=name)
        for argument in arguments:
            command.add_argument(argument, type=_TYPES.get(argument, Path))
        return command

    verb("replace", _replace, "state_dir", "why", "map_bytes", "now_us")
    verb("backup-own", _backup_own, "state_dir")
    verb("stats", _stats, "state_dir")
    verb("check", _check, "state_dir")
    verb("backup", _backup, "state_dir", "directory")
    verb("export", _export, "state_dir").add_argument("--progress", action="store_true")
    verb("compact", _compact, "state_dir")
    verb("restore", _restore, "state_dir", "directory")
    return parser


_TYPES: dict[str, Callable[[str], object]] = {"why": str, "map_bytes": int, "now_us": int}


def _say(document: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
    sys.stdout.buffer.flush()


# --- for the daemon ---------------------------------------------------------------------


def _replace(options: argparse.Namespace) -> None:
    paths = StorePaths(options.state_dir)
    _say(replace.replace(paths, options.why, map_bytes=options.map_bytes, now_us=options.now_us))


def _backup_own(options: argparse.Namespace) -> None:
    paths = StorePaths(options.state_dir)
    paths.remove_left_copies()
    made = backups.make_own(paths.store, paths.backups, live=True)
    _say({"backup": str(made)})


# --- for an operator, whether a daemon runs or not --------------------------------------


def _stats(options: argparse.Namespace) -> None:
    become(options.owner)
    store_dir = StorePaths(options.state_dir).store
    with _readable(options.state_dir) as live, lmdb_env.reading(store_dir, live=live) as env:
        _say({"schemaVersion": SCHEMA_VERSION, **dump.stats(env, store_dir)})


def _check(options: argparse.Namespace) -> None:
    """Examine the store; of one that a daemon writes to, a copy of this instant."""
    become(options.owner)
    with _still(options.state_dir) as store_dir:
        found = _examined(store_dir, options.owner)
    good = found.usable and not found.damaged and not found.faults
    damaged = [{"table": table, "key": key.hex()} for table, key in found.damaged]
    document = {"condition": found.condition, "detail": found.detail}
    _say(
        {"schemaVersion": SCHEMA_VERSION, "good": good, **document}
        | {"damaged": damaged, "faults": found.faults}
    )
    if not good:
        raise SystemExit(EXIT_FAILED)


def _backup(options: argparse.Namespace) -> None:
    store = StorePaths(options.state_dir).store
    if files.initialised(options.directory):
        raise StoreError(f"cannot write a backup to {options.directory}: it holds a database")
    if options.owner is None:
        with _readable(options.state_dir) as live:
            made = backups.make(store, options.directory, live=live)
    else:
        made = backups.put(options.directory, partial(_have_copied, options))
    size = made.stat().st_size
    _say({"schemaVersion": SCHEMA_VERSION, "backup": str(made.absolute()), "sizeBytes": size})


def _have_copied(options: argparse.Namespace, target: int) -> None:
    """Have an examined copy of the store of another user written to a descriptor of root's, by a
    process of that user's."""
    pid = os.fork()
    if pid == 0:
        code = EXIT_FAILED
        try:
            _carry_out(options, partial(_copy_to, target))
            code = os.EX_OK
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else EXIT_FAILED
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        raise StoreError(f"cannot copy {options.state_dir}: {signal_name(-code)}")
    if code:
        _leave(code)  # it has said why


def _copy_to(target: int, options: argparse.Namespace) -> None:
    standard_streams.give_up(sys.stdout)  # what is said there is root's word
    become(options.owner)
    signal.alarm(SECONDS_MAX)
    with _copy(options.state_dir) as copy:
        found = _examined(copy, options.owner)
        if not found.usable:
            raise StoreError(f"cannot use the copy of {options.state_dir}: {found.detail}")
        with open_regular(copy / "data.mdb") as made, os.fdopen(target, "wb") as written:
            shutil.copyfileobj(made, written)


def _export(options: argparse.Namespace) -> None:
    """Export a copy: however slowly it is read, it holds no page of the store, and does not
    delay a daemon that starts meanwhile."""
    become(options.owner)
    with _copy(options.state_dir) as store_dir, lmdb_env.reading(store_dir, live=False) as env:
        for line in dump.export(env, progress=_progress if options.progress else _no_progress):
            sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _progress(done: int, rows: int) -> None:
    print(f"progress {done} {rows}", file=sys.stderr, flush=True)


def _no_progress(_done: int, _rows: int) -> None:
    """Nobody wants to know."""


def _examined(store_dir: Path, owner: Owner | None) -> Examination:
    """Examine a store, in a process that its file may kill: a fork, where this process became the
    owner of it, who may not be able to execute what is root's."""
    if owner is None:
        return child_process.examine(store_dir)
    child = ChildProcess(forked=partial(examiner.main, [str(store_dir)]))
    return child_process.examination(child, store_dir)


@contextlib.contextmanager
def _readable(state_dir: Path) -> Iterator[bool]:
    """Yield True if a daemon runs on the store; else none can start within the block."""
    if not files.data_bytes(StorePaths(state_dir).store):
        raise StoreError(f"cannot read a database in {state_dir}: there is none")
    with contextlib.ExitStack() as held:
        live = False
        try:
            held.callback(DirectoryLock(state_dir).close)
        except AlreadyRunningError:
            live = True
        yield live


@contextlib.contextmanager
def _still(state_dir: Path) -> Iterator[Path]:
    """Yield a directory with the store as it is now, which no process writes to."""
    with _readable(state_dir) as live:
        if not live:
            yield StorePaths(state_dir).store
            return
    with _copy(state_dir) as copy:
        yield copy


@contextlib.contextmanager
def _copy(state_dir: Path) -> Iterator[Path]:
    """Yield a copy of the store for a block."""
    paths = StorePaths(state_dir)
    with _readable(state_dir) as live:
        copy = paths.empty_for_copying()
        with lmdb_env.reading(paths.store, live=live) as env:
            lmdb_env.copy(env, copy)
    try:
        yield copy
    finally:
        files.remove(copy)


# --- for an operator, while no daemon runs ----------------------------------------------


def _compact(options: argparse.Namespace) -> None:
    become(options.owner)
    paths = StorePaths(options.state_dir)
    with _alone(paths), paths.empty_for_making() as making:
        before = files.allocated_bytes(paths.store)
        backups.copy_into(paths.store, making, live=False)
        files.mark_initialised(making)
        incidents.write(making, incidents.read(paths.store))
        paths.put_in_place(None)  # every row of the old one is in the new one
        after = files.allocated_bytes(paths.store)
    _say({"schemaVersion": SCHEMA_VERSION, "bytesBefore": before, "bytesAfter": after})


def _restore(options: argparse.Namespace) -> None:
    """Replace the store by a backup; the store is set aside."""
    paths = StorePaths(options.state_dir)
    with _backup_in(options) as backup, _alone(paths), paths.empty_for_making() as making:
        made = making / "data.mdb"
        files.write_new(backup, made)
        found = _examined(making, options.owner)
        if not found.usable:
            detail = found.detail or "it is empty"
            raise StoreError(f"cannot restore {options.directory}: {detail}")
        map_bytes = max(MAP_BYTES, 2 * made.stat().st_size)
        now_us = time.time_ns() // 1000
        actions = replace.adopt(making, Salvage(), map_bytes=map_bytes, now_us=now_us)
        incidents.write(making, incidents.read(paths.store))
        aside = paths.next_aside()
        paths.put_in_place(aside)
    set_aside = None if aside is None else str(aside.absolute())
    _say({"schemaVersion": SCHEMA_VERSION, "actions": actions, "setAside": set_aside})


def _backup_in(options: argparse.Namespace) -> IO[bytes]:
    """Open the backup to restore, then be the owner of the store. One that others can write is
    opened with that owner's rights, and by root for root's own store never."""
    path: Path = options.directory / "data.mdb"
    os.stat(options.state_dir)  # without one there is nothing to restore
    try:
        directory, name = Directory.holding(path)
        with directory:
            opened = os.fdopen(directory.open_file(name, os.O_RDONLY), "rb")
    except UntrustedError:
        if options.owner is None:
            raise
        become(options.owner)
        return open_regular(path)
    become(options.owner)
    return opened


@contextlib.contextmanager
def _alone(paths: StorePaths) -> Iterator[None]:
    """Hold the instance lock; finish or undo an interrupted replacement first."""
    lock = DirectoryLock(paths.state_dir)
    try:
        paths.prepare()
        yield
    finally:
        lock.close()


if __name__ == "__main__":
    main()
