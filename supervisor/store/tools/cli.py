"""Command line for work on a store's files: `python -m geosched.supervisor.store.tools.cli`.

The daemon runs it to salvage a damaged store and to back up its own; `geosched-ctl db` runs
it for an operator. It prints one JSON document (`export`: one a line) and ends with the
process that started it. Only `replace`, `compact` and `restore` change a store, and only one
that no daemon uses.
"""

import argparse
import contextlib
import errno
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from ....ipc import standard_streams
from ....ipc.foreign_text import visible
from ....ipc.messages.control import SCHEMA_VERSION
from ....workers.host.linux import set_parent_death_signal
from ...host.locks import AlreadyRunningError, DirectoryLock
from .. import files, lmdb_env
from ..daemondb import MAP_BYTES
from ..errors import StoreError
from ..files import StorePaths
from ..repair import incidents
from ..repair.salvage import Salvage
from . import backups, child_process, dump, replace

#: Exit codes of `geosched-ctl`, which passes them on.
EXIT_FAILED, EXIT_NOT_PERMITTED, EXIT_IN_USE, EXIT_INTERRUPTED = 1, 4, 6, 130
#: A reader that hangs would keep the pages of its snapshot from being used again.
SECONDS_MAX = 3600


def main(arguments: Sequence[str] | None = None) -> None:
    standard_streams.complete()
    options = _parser().parse_args(arguments)
    set_parent_death_signal(signal.SIGKILL)
    signal.alarm(SECONDS_MAX)
    try:
        options.work(options)
    except AlreadyRunningError as error:
        _fail(str(error), EXIT_IN_USE)
    except KeyboardInterrupt:
        _leave(EXIT_INTERRUPTED)
    except BrokenPipeError:
        _leave(EXIT_FAILED)
    except StoreError as error:
        _fail(str(error), _code_of(error.__cause__))
    except OSError as error:
        where = error.filename or "the output"
        _fail(f"cannot {options.verb} {where}: {error.strerror or error}", _code_of(error))


def _code_of(error: BaseException | None) -> int:
    """Return the exit code for an error; LMDB's have `code` where the system's have `errno`."""
    code = getattr(error, "errno", None) or getattr(error, "code", None)
    return EXIT_NOT_PERMITTED if code in (errno.EACCES, errno.EPERM) else EXIT_FAILED


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

    def verb(name: str, work: Callable[[argparse.Namespace], None], *arguments: str) -> None:
        command = verbs.add_parser(name)
        command.set_defaults(work=work, verb=name)
        for argument in arguments:
            command.add_argument(argument, type=_TYPES.get(argument, Path))

    verb("replace", _replace, "state_dir", "why", "map_bytes", "now_us")
    verb("backup-own", _backup_own, "state_dir")
    verb("stats", _stats, "state_dir")
    verb("check", _check, "state_dir")
    verb("backup", _backup, "state_dir", "directory")
    verb("export", _export, "state_dir")
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
    store_dir = StorePaths(options.state_dir).store
    with _readable(options.state_dir) as live, lmdb_env.reading(store_dir, live=live) as env:
        _say({"schemaVersion": SCHEMA_VERSION, **dump.stats(env, store_dir)})


def _check(options: argparse.Namespace) -> None:
    """Examine the store; of one that a daemon writes to, a copy of this instant."""
    with _still(options.state_dir) as store_dir:
        found = child_process.examine(store_dir)
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
    with _readable(options.state_dir) as live:
        made = backups.make(store, options.directory, live=live)
    size = made.stat().st_size
    _say({"schemaVersion": SCHEMA_VERSION, "backup": str(made.absolute()), "sizeBytes": size})


def _export(options: argparse.Namespace) -> None:
    """Export a copy: however slowly it is read, it holds no page of the store, and does not
    delay a daemon that starts meanwhile."""
    with _copy(options.state_dir) as store_dir, lmdb_env.reading(store_dir, live=False) as env:
        for line in dump.export(env, progress=_progress):
            sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _progress(done: int, rows: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == rows else ""
        print(f"\rexported {done} of {rows} rows", end=end, file=sys.stderr, flush=True)


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
    with _alone(paths), paths.empty_for_making() as making:
        made = making / "data.mdb"
        files.copy_file(options.directory / "data.mdb", made)
        found = child_process.examine(making)
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
