"""Work on a store's files in a process of its own: `python -m geosched.supervisor.storetool`.

The daemon runs it to look at its store before it opens it, to save what can be read of a
damaged one, and to copy it; `geosched-ctl db` runs it for an operator. What is said is one
JSON document (`export`: one a line) on standard output. It ends with the process that began
it. Only `compact` and `restore` change a store, and only one that no daemon runs on.
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from ..ipc.control import SCHEMA_VERSION
from ..workers.linux import set_parent_death_signal
from . import backups, dump, environment, salvage, storefile
from .daemondb import DaemonDB
from .examination import Condition, Examination, examine
from .locks import AlreadyRunningError, DirectoryLock
from .salvage import Salvage
from .storefile import Places, StoreError

#: As those of `geosched-ctl`, which passes them on.
EXIT_FAILED, EXIT_NOT_PERMITTED, EXIT_IN_USE = 1, 4, 6
#: A reader that hangs would keep the pages that it looks at from being used again.
SECONDS_MAX = 3600


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    set_parent_death_signal(signal.SIGKILL)
    signal.alarm(SECONDS_MAX)
    try:
        options.work(options)
    except AlreadyRunningError as error:
        _fail(str(error), EXIT_IN_USE)
    except PermissionError as error:
        _fail(str(error), EXIT_NOT_PERMITTED)
    except (StoreError, OSError) as error:
        _fail(str(error), EXIT_FAILED)


def _fail(why: str, code: int) -> None:
    print(why, file=sys.stderr)
    raise SystemExit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="storetool", description=(__doc__ or "").split("\n")[0])
    verbs = parser.add_subparsers(required=True)

    def verb(name: str, work: Callable[[argparse.Namespace], None], *arguments: str) -> None:
        command = verbs.add_parser(name)
        command.set_defaults(work=work)
        for argument in arguments:
            listed = argument == "tables"
            kind = str if argument in ("tables", "order") else Path
            command.add_argument(argument, type=kind, nargs="+" if listed else None)

    verb("examine", _examine, "place")
    verb("salvage", _salvage, "place", "into", "order", "tables")
    verb("backup-own", _backup_own, "state_dir")
    verb("stats", _stats, "state_dir")
    verb("check", _check, "state_dir")
    verb("backup", _backup, "state_dir", "directory")
    verb("export", _export, "state_dir")
    verb("compact", _compact, "state_dir")
    verb("restore", _restore, "state_dir", "directory")
    return parser


def _say(document: object) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
    sys.stdout.buffer.flush()


# --- for the daemon ---------------------------------------------------------------------


def _examine(options: argparse.Namespace) -> None:
    _say(examine(options.place))


def _salvage(options: argparse.Namespace) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    into = os.open(options.into, flags, 0o600)
    backwards = options.order == "backwards"
    salvage.read_out(options.place, options.tables, backwards=backwards, into=into)


def _backup_own(options: argparse.Namespace) -> None:
    places = Places(options.state_dir)
    made = backups.make_own(places.store, places.backups, live=True)
    _say({"backup": str(made)})


# --- for an operator, whether a daemon runs or not --------------------------------------


def _stats(options: argparse.Namespace) -> None:
    place = Places(options.state_dir).store
    with _readable(options.state_dir) as live, environment.reading(place, live=live) as env:
        _say({"schemaVersion": SCHEMA_VERSION, **dump.stats(env, place)})


def _check(options: argparse.Namespace) -> None:
    """Of one that a daemon writes to, a copy of this instant is looked at."""
    with _still(options.state_dir) as place:
        found = examine(place, thorough=True)
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
    with _readable(options.state_dir) as live:
        made = backups.make(Places(options.state_dir).store, options.directory, live=live)
    size = made.stat().st_size
    _say({"schemaVersion": SCHEMA_VERSION, "backup": str(made.absolute()), "sizeBytes": size})


def _export(options: argparse.Namespace) -> None:
    """From a copy: however slowly it is read, no page of the store waits for it."""
    still = _still(options.state_dir, copied=True)
    with still as place, environment.reading(place, live=False) as env:
        for line in dump.export(env, progress=_progress):
            sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _progress(done: int, rows: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == rows else ""
        print(f"\rexported {done} of {rows} rows", end=end, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _readable(state_dir: Path) -> Iterator[bool]:
    """Whether a daemon runs on it; where none does, none can start meanwhile."""
    with contextlib.ExitStack() as held:
        live = False
        try:
            held.callback(DirectoryLock(state_dir).close)
        except AlreadyRunningError:
            live = True
        if not storefile.data_bytes(Places(state_dir).store):
            raise StoreError(f"cannot read a database in {state_dir}: there is none")
        yield live


@contextlib.contextmanager
def _still(state_dir: Path, *, copied: bool = False) -> Iterator[Path]:
    """A directory with the store as it is at this instant, that nobody writes to."""
    places = Places(state_dir)
    with _readable(state_dir) as live:
        if not live and not copied:
            yield places.store
            return
        copy = state_dir / f"daemondb.copy-{os.getpid()}"
        copy.mkdir(mode=0o700)
        try:
            with environment.reading(places.store, live=live) as env:
                environment.copy(env, copy)
            yield copy
        finally:
            storefile.remove(copy)


# --- for an operator, while no daemon runs ----------------------------------------------


def _compact(options: argparse.Namespace) -> None:
    places = Places(options.state_dir)
    with _alone(places):
        before = storefile.allocated_bytes(places.store)
        making = places.empty_for_making()
        backups.copy_into(places.store, making, live=False)
        storefile.keep_what_is_beside(places.store, making)
        aside = places.next_aside()
        places.put_in_place(aside)
        storefile.remove(aside)  # what it held is in the other, to the last row
        after = storefile.allocated_bytes(places.store)
    _say({"schemaVersion": SCHEMA_VERSION, "bytesBefore": before, "bytesAfter": after})


def _restore(options: argparse.Namespace) -> None:
    """The store that is there is set aside."""
    places = Places(options.state_dir)
    with _alone(places):
        found = examine(options.directory)
        _refuse(found, options.directory)
        making = places.empty_for_making()
        shutil.copyfile(options.directory / "data.mdb", making / "data.mdb")
        (making / "data.mdb").chmod(0o600)
        db = DaemonDB.at(making)
        try:
            db.adopt(Salvage(), now_us=time.time_ns() // 1000)
            actions = sum(db.counts().values())
        finally:
            db.close()
        aside = places.next_aside()
        places.put_in_place(aside)
    _say({"schemaVersion": SCHEMA_VERSION, "actions": actions, "setAside": str(aside.absolute())})


def _refuse(found: Examination, directory: Path) -> None:
    if found.condition is Condition.NEW or not found.usable:
        detail = found.detail or "there is no backup"
        raise StoreError(f"cannot restore {directory}: {detail}")


@contextlib.contextmanager
def _alone(places: Places) -> Iterator[None]:
    """With the instance lock, and what an earlier crash cut short ended."""
    lock = DirectoryLock(places.state_dir)
    try:
        places.prepare()
        yield
    finally:
        lock.close()


if __name__ == "__main__":
    main()
