"""daemonDB opened again: what was written is there, long configuration included."""

import shutil
import subprocess
import sys
from typing import Any

from geosched.ipc.actions import ExecutionStatus
from geosched.ipc.messages.runs import StopReason
from geosched.supervisor.core.lifecycle import decide
from geosched.supervisor.core.model import Absent, Due, Record, RunEnded, Sent, StopAsked
from geosched.supervisor.store.daemondb import DaemonDB, MetaUpdate
from geosched.supervisor.store.tables.codec import action_key
from support.build import BEFORE, DUE, GENERATION, NOW, NOW_US, RULES, action, result
from support.paths import TESTS
from support.store import (
    LONG_NAMES,
    add,
    all_edges,
    decided,
    happen,
    on_disk,
    seen,
    start,
    transactions,
)

# --- reopening --------------------------------------------------------------------------


def test_everything_is_as_it_was_after_reopening(opened):
    db = opened()
    add(db, "a", "b", "c")
    start(db, "a", "b")
    happen(db, "b", RunEnded(result(run_id=db.read("b").state.run.run_id, exit_code=3)))
    db.commit([], report=True, meta=MetaUpdate("e", "d", "s", NOW_US))
    told = [
        lambda s: [s.read(i) for i in "abc"],
        lambda s: (s.meta, s.counts(), s.events(0), s.outbox_pending(10), s.outbox_depth),
        lambda s: (all_edges(s), s.started(), s.runs("b", 20), s.summary()),
    ]
    before = [tell(db) for tell in told]
    db = opened()
    assert [tell(db) for tell in told] == before
    assert db.counts() == {
        ExecutionStatus.NULL: 1,
        ExecutionStatus.STARTED: 1,
        ExecutionStatus.FAILED: 1,
    }


def test_opening_a_store_again_does_not_write_to_it(opened):
    db = opened()
    add(db, "a")
    before = transactions(db)
    assert transactions(opened()) == before


def test_sequence_numbers_never_restart(opened):
    db = opened()
    add(db, "a", "b")
    start(db, "a")
    db.settle_reports([1], [])
    db = opened()
    assert db.commit([decided(db, "b", Due(True))], report=False).events[0][0] == 2
    db = opened()
    assert db.commit([decided(db, "b", Absent())], report=False).events == ()  # only a stop
    ended = RunEnded(result(run_id=db.read("b").state.run.run_id))
    assert db.commit([decided(db, "b", ended)], report=True).events[0][0] == 3


def test_generation_and_device_are_made_once_and_differ_between_stores(opened, tmp_path):
    first = opened().meta
    again = opened().meta
    other = DaemonDB.open(tmp_path / "other")
    other.close()
    assert first == again
    assert len({first.generation, first.device, other.meta.generation, other.meta.device}) == 4
    assert len(first.generation) == len(GENERATION)
    assert int(first.generation, 16) >= 0


def test_a_record_of_a_stopping_run_keeps_its_reason(opened):
    db = opened()
    add(db, "a")
    start(db, "a")
    happen(db, "a", StopAsked())
    record = opened().read("a")
    assert isinstance(record, Record)
    assert record.state.run.stop is StopReason.OPERATOR


def test_what_was_committed_outlives_kill_minus_nine(state_dir):
    script = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(TESTS)!r})
from geosched.supervisor.core.lifecycle import first_seen
from geosched.supervisor.store.daemondb import DaemonDB
from support.build import BEFORE, RULES, action
db = DaemonDB.open(Path({str(state_dir)!r}))
db.commit([first_seen(action("a"), BEFORE, RULES)], report=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", script], timeout=30, check=False)
    assert ended.returncode == -9
    db = DaemonDB.open(state_dir)
    assert db.read("a") == seen("a").after
    db.close()


def test_a_copy_of_the_store_is_a_store(opened, state_dir, tmp_path):
    add(opened(), "a")
    opened.close()
    shutil.copytree(state_dir, tmp_path / "copy")
    copy = DaemonDB.open(tmp_path / "copy")
    assert copy.read("a") == seen("a").after
    copy.close()


# --- long configuration -----------------------------------------------------------------


def test_long_configuration_is_invisible_to_callers(opened):
    db = opened()
    add(db, "a", app_names=LONG_NAMES, args='{"strict":true}')
    start(db, "a")
    assert opened().read("a").action == action("a", app_names=LONG_NAMES, args='{"strict":true}')


def test_a_change_of_status_does_not_write_long_configuration_again(opened, state_dir):
    db = opened()
    add(db, "a", app_names=LONG_NAMES)
    db.close()
    lost: list[bytes] = []

    def take_away(txn: Any, handle: Any) -> None:
        lost.append(txn.pop(action_key("a"), db=handle))

    record = seen("a", app_names=LONG_NAMES).after
    on_disk(state_dir, "details", take_away)
    assert len(lost[0]) > 1000
    db = opened()
    change = decide(record, DUE, NOW, RULES)
    assert db.commit([change], report=True).won == (True,)
    db.close()
    on_disk(
        state_dir, "details", lambda txn, handle: lost.append(txn.get(action_key("a"), db=handle))
    )
    assert lost[1] is None


def test_configuration_may_grow_and_shrink(db):
    add(db, "a")
    for names in (LONG_NAMES, LONG_NAMES[:-1], ("one",), (), LONG_NAMES):
        happen(db, "a", Sent(action("a", app_names=names)), BEFORE)
        assert db.read("a").action.app_names == names
