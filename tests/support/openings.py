"""Opens stores that are damaged, many in one process, and says what came of each.

A defect would end the process that opens: so this is one of its own, `python -m
support.openings`, which reads the path of a state directory a line and answers each with a
line of JSON. What the daemon starts as processes of their own is forked here, unless
`--exec` is given: the same code, without starting Python a thousand times. With
`--no-verifier` py-lmdb has none, as before its version 3.
"""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
from geosched.ipc.actions import ExecutionStatus
from geosched.supervisor.core.lifecycle import decide
from geosched.supervisor.core.model import Absent
from geosched.supervisor.store.daemondb import DaemonDB
from geosched.supervisor.store.errors import StoreError
from geosched.supervisor.store.files import StorePaths
from geosched.supervisor.store.open import open_store
from geosched.supervisor.store.repair import incidents as told
from geosched.supervisor.store.repair.examine import examine
from geosched.supervisor.store.tools import child_process, cli, examiner
from geosched.supervisor.store.tools.child_process import ChildProcess

from support.build import NOW, NOW_US, RULES
from support.paths import TESTS

MAP_BYTES = 1024 * 1024


class Opened(msgspec.Struct):
    """What a store holds once it is opened, or what was said instead."""

    error: str = ""
    kind: str = ""
    actions: dict[str, tuple[str, int, int]] = {}  # status, attempt, revision
    reports: dict[int, str] = {}
    events: list[int] = []
    runs: int = 0
    generation: str = ""
    device: str = ""
    etag: str = ""
    last_sequence: int = 0
    incidents: tuple[told.Incident, ...] = ()
    set_aside: list[str] = []
    unsound: list[str] = []  # what is wrong with it afterwards
    modes: list[str] = []  # files that others could read


class ForkedChild(ChildProcess):
    def __init__(self, *arguments: str | Path, tool: str = cli.__name__) -> None:
        self._said = os.memfd_create("storetool")
        self._complained = os.memfd_create("storetool")
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(self._said, 1)
            os.dup2(self._complained, 2)
            code = 1
            try:
                main = examiner.main if tool == examiner.__name__ else cli.main
                main([str(argument) for argument in arguments])
                code = 0
            except SystemExit as ended:
                code = int(ended.code or 0)
                os._exit(code)
            finally:
                if code:
                    os.write(2, repr(sys.exception() or "").encode())
                os._exit(code)
        self.pidfd = os.pidfd_open(self.pid)


def open_and_look(state_dir: Path, *, use: bool) -> Opened:
    try:
        db = open_store(state_dir, now_us=NOW_US, map_bytes=MAP_BYTES)
    except StoreError as error:
        return Opened(str(error), str(error.kind))
    with contextlib.closing(db):
        found = look(db)
        if use:
            use_up(db)
    places = StorePaths(state_dir)
    after = examine(places.store)
    found.unsound = [*after.faults, *(f"{table} {key.hex()}" for table, key in after.damaged)]
    if after.condition != "sound":
        found.unsound.append(f"{after.condition}: {after.detail}")
    found.incidents = told.read(places.store)
    found.set_aside = [path.name for path in places.set_aside()]
    found.modes = [str(path) for path in places.store.iterdir() if path.stat().st_mode & 0o077]
    return found


def use_up(db: DaemonDB) -> None:
    """Remove what can be removed, which touches every page: nothing may break of it."""
    while pending := [number for number, _ in db.outbox_pending(5000)]:
        db.settle_reports(pending, [])
    records, _ = db.page("", 5000, frozenset(ExecutionStatus))
    changes = [decide(record, Absent(), NOW, RULES) for record in records]
    db.commit([change for change in changes if change is not None], report=True)
    gone = {row: True for row, _ in db.ended_page(b"")[0]}
    db.commit([], report=True, absences=gone)
    while pending := [number for number, _ in db.outbox_pending(5000)]:
        db.settle_reports(pending, [])
    db.forget(b"", 2**62)
    left, _ = db.page("", 5000, frozenset(ExecutionStatus))
    assert {record.status for record in left} <= {ExecutionStatus.STARTED}


def look(db: DaemonDB) -> Opened:
    records, cursor = db.page("", 5000, frozenset(ExecutionStatus))
    assert not cursor
    reports: dict[int, str] = {}
    events = [number for number, _ in db.events(0)]
    for record in records:
        assert db.read(record.action.id) == record
    for number, change in db.outbox_pending(5000):
        reports[number] = change.action_id
    return Opened(
        actions={r.action.id: (r.status.value, r.attempt, r.revision) for r in records},
        reports=reports,
        events=events,
        runs=sum(len(db.runs(record.action.id, 100)) for record in records),
        generation=db.meta.generation,
        device=db.meta.device,
        etag=db.meta.etag,
        last_sequence=db._known.last_sequence,
    )


class Openings:
    """Who opens, until it is closed; with `executed` each process is one of its own."""

    def __init__(self, *, executed: bool = False, verifier: bool = True) -> None:
        options = ["--exec"] * executed + ["--no-verifier"] * (not verifier)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.openings", *options],
            cwd=TESTS,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._decode = msgspec.json.Decoder(Opened).decode

    def open(self, state_dir: Path, *, use: bool = False) -> Opened:
        """With `use`, what is in it is used up afterwards. Fails, naming the store, where the
        process that opens dies of it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{'use' if use else 'look'} {state_dir}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"whoever opened {state_dir} ended with {self._process.wait(10)}")
        return self._decode(line)

    def close(self) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()


def main() -> None:
    if "--exec" not in sys.argv:
        forked: Any = ForkedChild
        child_process.ChildProcess = forked
    if "--no-verifier" in sys.argv:
        absent: Any = None
        sys.modules["lmdb.verify"] = absent
    for line in sys.stdin:
        word, _, place = line.rstrip("\n").partition(" ")
        answer = msgspec.json.encode(open_and_look(Path(place), use=word == "use"))
        sys.stdout.buffer.write(answer + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
