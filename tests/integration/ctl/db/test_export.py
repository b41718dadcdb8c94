"""`geosched-ctl db export`: every row, to readers that are slow or leave."""

import os
import pty
import select
import signal
import subprocess
from pathlib import Path

from geosched.supervisor.store.tables import migrations
from geosched.supervisor.store.tables.codec import action_key
from support.db import ACTIONS, asking, exported, large, make_store, place, storetools
from support.store import LONG_NAMES, flip, on_disk
from support.wait import wait_for


def test_every_row_is_exported_and_actions_whole(stopped):
    make_store(stopped.root / "state", "with long names", app_names=LONG_NAMES)
    head, *rows = exported(stopped)
    assert head == {"schemaVersion": 1, "format": migrations.FORMAT, "rows": len(rows)}
    counts = stopped.json("db", "stats")["tables"]
    for name, table in counts.items():
        assert len([row for row in rows if row["table"] == name]) == table["rows"], name
    actions = {row["value"]["action"]["id"]: row for row in rows if row["table"] == "actions"}
    assert len(actions) == 21
    assert actions["with long names"]["value"]["action"]["app_names"] == list(LONG_NAMES)
    assert actions["with long names"]["status"] == "STARTED"
    assert actions["action 1"]["status"] == "NULL"


def test_damaged_rows_are_exported_as_damaged(stopped):
    for table, key in (("actions", action_key("action 3")), ("events", bytes(7) + b"\1")):
        flip(table, key, stopped.root / "state")
    on_disk(stopped.root / "state", "outbox", lambda txn, db: txn.put(b"short", b"x", db=db))
    damaged = [row for row in exported(stopped) if "damaged" in row]
    assert sorted(row["table"] for row in damaged) == ["actions", "events", "outbox"]
    assert all(row["error"].startswith("cannot read") for row in damaged)


def test_a_slow_reader_of_an_export_holds_neither_pages_nor_a_daemon_up(daemon):
    large(daemon)
    with asking(daemon, "export", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as export:
        assert export.stdout is not None
        assert export.stdout.readline().startswith(b'{"schemaVersion"')
        (tool,) = wait_for(lambda: storetools(daemon), what="the process that exports")
        daemon.start()
        maps = Path(f"/proc/{tool}/maps").read_text()
        assert f"daemondb.copy-{tool}/data.mdb" in maps
        assert str(place(daemon) / "data.mdb") not in maps
        assert len(export.stdout.readlines()) > ACTIONS
        assert export.wait(20) == 0
    assert not list((daemon.root / "state").glob("daemondb.copy-*"))


def test_a_reader_that_leaves_early_is_no_failure_worth_a_word(daemon):
    large(daemon)
    with asking(daemon, "export", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as export:
        assert export.stdout is not None
        assert export.stderr is not None
        export.stdout.readline()
        export.stdout.close()
        assert export.wait(20) == 1
        assert export.stderr.read() == b""
    assert not list((daemon.root / "state").glob("daemondb.copy-*"))


def test_an_export_that_nothing_takes_fails_with_its_reason(stopped):
    with Path("/dev/full").open("wb") as full:
        export = asking(stopped, "export", stdout=full, stderr=subprocess.PIPE)
        _, said = export.communicate(timeout=20)
    assert export.returncode == 1
    assert said == b"geosched-ctl: cannot export the output: No space left on device\n"


def test_what_a_killed_export_left_behind_is_removed_by_the_next(daemon):
    large(daemon)
    with asking(daemon, "export", stdout=subprocess.PIPE) as export:
        assert export.stdout is not None
        export.stdout.readline()
        export.kill()
        export.wait(10)
    wait_for(lambda: not storetools(daemon), what="the end of the one that exported")
    assert list((daemon.root / "state").glob("daemondb.copy-*"))
    exported(daemon)
    assert not list((daemon.root / "state").glob("daemondb.copy-*"))


def test_an_interrupted_export_says_nothing_and_leaves_nothing(daemon):
    large(daemon)
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "start_new_session": True}
    with asking(daemon, "export", **how) as export:
        assert export.stdout is not None
        export.stdout.readline()
        os.killpg(export.pid, signal.SIGINT)
        assert export.wait(20) == 130  # and not because nobody reads any more
        export.stdout.close()
        assert export.stderr is not None
        assert export.stderr.read().strip() == b""
    wait_for(lambda: not storetools(daemon), what="the end of the one that exported")
    exported(daemon)
    assert not list((daemon.root / "state").glob("daemondb.copy-*"))


def test_progress_is_shown_on_a_terminal_only(daemon):
    large(daemon)
    assert "exported" not in daemon.ctl("db", "export").stderr
    main, side = pty.openpty()
    try:
        export = asking(daemon, "export", stdout=subprocess.DEVNULL, stderr=side)
        os.close(side)
        assert export.wait(20) == 0
        assert select.select([main], [], [], 5)[0]
        said = os.read(main, 65536).decode()
    finally:
        os.close(main)
    rows = len(exported(daemon)) - 1
    assert "\rexported 1000 of" in said
    assert said.endswith(f"\rexported {rows} of {rows} rows\r\n")
