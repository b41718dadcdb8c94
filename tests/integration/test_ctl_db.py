"""`geosched-ctl db`, every verb through the command line, beside a daemon and without one;
and the backups that a daemon makes of itself.
"""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb
import pytest
from geosched.ipc.instants import parse_instant
from geosched.supervisor.store.daemondb import DaemonDB
from geosched.supervisor.store.files import Places
from geosched.supervisor.store.repair import incidents
from geosched.supervisor.store.repair.examine import Condition, examine
from geosched.supervisor.store.repair.incidents import Incident
from geosched.supervisor.store.tables import migrations
from geosched.supervisor.store.tables.codec import action_key
from support.daemon import (
    Daemon,
    commands,
    daemon_installation,
    entry,
    lives,
)
from support.layout import zero
from support.mounts import mounted
from support.store import LONG_NAMES, add, flip, on_disk, start
from support.wait import wait_for

FORMAT_1 = Path(__file__).resolve().parents[1] / "data" / "stores" / "format-1"
NOBODY = 65534
ACTIONS = 1500  # as JSON more than a pipe holds
READ_VERBS = (["stats"], ["check"], ["export"])


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        installed.configure(scripts={"default": {"command": ["/bin/true"]}})
        yield installed


@pytest.fixture
def stopped(daemon: Daemon) -> Daemon:
    """No daemon has run here, and there is a store."""
    make_store(daemon.root / "state", *(f"action {n}" for n in range(20)))
    return daemon


@pytest.fixture
def running(daemon: Daemon) -> Daemon:
    daemon.send(
        [entry(f"action {n}", 3600, 7200, appNames=LONG_NAMES[: n % 30]) for n in range(60)]
    )
    daemon.start()
    daemon.wait_phase("action 59", "scheduled")
    return daemon


@pytest.fixture(params=["stopped", "running"])
def either(request: pytest.FixtureRequest) -> Daemon:
    found: Daemon = request.getfixturevalue(request.param)
    return found


def make_store(state_dir: Path, *ids: str, **changes: Any) -> None:
    with closing(DaemonDB.open(state_dir, map_bytes=4 * 1024**2)) as db:
        add(db, *ids, **changes)
        start(db, ids[0])


def place(daemon: Daemon) -> Path:
    return daemon.root / "state" / "daemondb"


def exported(daemon: Daemon) -> list[dict[str, Any]]:
    done = daemon.ctl("db", "export")
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def refused(daemon: Daemon, code: int, *arguments: str | Path) -> str:
    """What is said, on one line."""
    done = daemon.ctl("db", *map(str, arguments))
    assert (done.returncode, done.stdout) == (code, ""), done
    assert done.stderr.startswith("geosched-ctl: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("geosched-ctl: ").rstrip("\n")


def storetools(daemon: Daemon) -> list[int]:
    """Processes that work on the store now."""
    mark = os.fsencode(daemon.root / "state")
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"geosched.supervisor.store.tools.cli" in words and mark in words:
            found.append(int(directory.name))
    return found


def asking(daemon: Daemon, *arguments: str | Path, **how: Any) -> subprocess.Popen[bytes]:
    command = [commands() / "geosched-ctl", "--config", daemon.config, "db", *arguments]
    return subprocess.Popen(command, **({"stdin": subprocess.DEVNULL} | how))


# --- stats -------------------------------------------------------------------------------


def test_stats_are_of_the_store_that_is_there(either):
    found = either.json("db", "stats")
    actions = 60 if either.process else 20
    assert found["tables"]["actions"]["rows"] == actions
    assert found["directory"] == str(place(either))
    assert found["format"] == migrations.FORMAT
    assert 0 < found["usedBytes"] < found["mapBytes"]
    assert found["freeBytes"] >= 0
    assert found["allocatedBytes"] <= found["mapBytes"] + 4096
    assert sum(table["bytes"] for table in found["tables"].values()) < found["usedBytes"]
    assert found["oldest"]["due"] is not None
    assert found["lastTransaction"] > 0


def test_stats_are_shown_in_units_or_as_json(stopped):
    shown = stopped.ctl("db", "stats").stdout
    assert "TABLE" in shown
    assert "MiB (" in shown
    (line,) = stopped.ctl("db", "stats", "-o", "jsonl").stdout.splitlines()
    assert json.loads(line) == stopped.json("db", "stats")
    assert json.loads(line)["schemaVersion"] == 1


# --- check -------------------------------------------------------------------------------


def test_a_store_without_fault_is_good(either):
    assert either.json("db", "check") == {
        "schemaVersion": 1,
        "good": True,
        "condition": "sound",
        "detail": "",
        "damaged": [],
        "faults": [],
    }
    assert either.ctl("db", "check").stdout.split() == ["database", "good"]
    assert not list((either.root / "state").glob("daemondb.copy-*"))


def test_a_damaged_value_is_named_and_exit_1(stopped):
    key = action_key("action 7")
    flip("actions", key, stopped.root / "state")
    done = stopped.ctl("db", "check", "-o", "json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["damaged"] == [{"table": "actions", "key": key.hex()}]
    assert done.stderr == "geosched-ctl: the database is not as it should be\n"
    assert f"damaged: actions {key.hex()}" in stopped.ctl("db", "check").stdout


def test_a_contradiction_between_tables_is_named_and_exit_1(stopped):
    def lose_first(txn: Any, handle: Any) -> None:
        with txn.cursor(handle) as at:
            assert at.first()
            at.delete()

    on_disk(stopped.root / "state", "due", lose_first)
    done = stopped.ctl("db", "check", "-o", "json")
    assert done.returncode == 1
    (fault,) = json.loads(done.stdout)["faults"]
    assert fault.endswith("is not in due")


def test_a_damaged_page_is_named_and_exit_1(stopped):
    zero(place(stopped) / "data.mdb", 0)
    done = stopped.ctl("db", "check", "-o", "json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["good"], found["condition"]) == (False, "damaged")
    assert found["detail"]


# --- export ------------------------------------------------------------------------------


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


def large(daemon: Daemon) -> Daemon:
    make_store(daemon.root / "state", *(f"action {n}" for n in range(ACTIONS)))
    return daemon


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


# --- backup ------------------------------------------------------------------------------


def test_a_backup_is_good_and_for_nobody_elses_eyes(either, tmp_path):
    found = either.json("db", "backup", str(tmp_path / "copy"))
    made = tmp_path / "copy" / "data.mdb"
    assert found["backup"] == str(made)
    assert found["sizeBytes"] == made.stat().st_size
    assert (made.stat().st_mode & 0o777, made.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    copied = examine(made.parent)
    assert (copied.condition, copied.damaged, copied.faults) == (Condition.SOUND, (), ())
    assert [path.name for path in made.parent.iterdir()] == ["data.mdb"]


def test_a_backup_takes_the_place_of_an_older_one_at_once(running, tmp_path):
    running.json("db", "backup", str(tmp_path))
    made = tmp_path / "data.mdb"
    with made.open("rb") as older:
        before = older.read()
        running.send([entry("another", 3600, 7200)])
        running.wait_phase("another", "scheduled")
        running.json("db", "backup", str(tmp_path))
        older.seek(0)
        assert older.read() == before
    assert made.read_bytes() != before
    assert list(tmp_path.iterdir()) == [made]


def test_a_killed_backup_leaves_the_older_one_and_nothing_else_for_long(stopped, tmp_path):
    stopped.json("db", "backup", str(tmp_path))
    made = tmp_path / "data.mdb"
    before = made.read_bytes()
    killed = 0
    for _ in range(30):
        make = asking(stopped, "backup", tmp_path, stdout=subprocess.DEVNULL)
        wait_for(lambda make=make: make.poll() is not None or list(tmp_path.glob(".making-*")))
        make.kill()
        make.wait(10)
        wait_for(lambda: not storetools(stopped), what="the end of the one that copied")
        assert made.read_bytes() == before
        killed += bool(list(tmp_path.glob(".making-*")))
        if killed == 3:
            break
    assert killed == 3
    stopped.json("db", "backup", str(tmp_path))
    assert list(tmp_path.iterdir()) == [made]


def test_a_backup_may_be_on_another_file_system(running, tmp_path):
    with mounted(tmp_path / "other", "-t", "tmpfs", "none"):
        running.json("db", "backup", str(tmp_path / "other"))
        assert examine(tmp_path / "other").condition is Condition.SOUND


def test_a_backup_that_cannot_be_written_is_told_why(stopped, tmp_path):
    with mounted(tmp_path / "other", "-t", "tmpfs", "-o", "ro", "none"):
        said = refused(stopped, 1, "backup", tmp_path / "other")
        assert said.startswith(f"cannot backup {tmp_path}/other")
        assert "Read-only file system" in said
    said = refused(stopped, 1, "backup", tmp_path / "no" / "such")
    assert said == f"cannot backup {tmp_path}/no/such: No such file or directory"


def test_a_backup_that_does_not_fit_leaves_the_older_one(stopped, tmp_path):
    with mounted(tmp_path / "other", "-t", "tmpfs", "-o", "size=100k", "none"):
        (tmp_path / "other" / "data.mdb").write_bytes(b"older")
        (tmp_path / "other" / "more").write_bytes(bytes(80 * 1024))
        assert "No space left" in refused(stopped, 1, "backup", tmp_path / "other")
        assert {path.name for path in (tmp_path / "other").iterdir()} == {"data.mdb", "more"}
        assert (tmp_path / "other" / "data.mdb").read_bytes() == b"older"


def test_a_backup_is_never_written_over_a_database(running):
    before = (place(running) / "data.mdb").stat().st_ino
    said = refused(running, 1, "backup", place(running))
    assert said == f"cannot write a backup to {place(running)}: it holds a database"
    assert (place(running) / "data.mdb").stat().st_ino == before
    assert running.ctl("ping").returncode == 0


def test_a_damaged_database_is_not_backed_up(stopped, tmp_path):
    zero(place(stopped) / "data.mdb", 0)
    refused(stopped, 1, "backup", tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- compact -----------------------------------------------------------------------------


def test_compact_and_restore_want_the_daemon_stopped(running, tmp_path):
    running.json("db", "backup", str(tmp_path))
    before = {path: path.stat().st_ino for path in (running.root / "state").rglob("*")}
    for verb in (["compact"], ["restore", str(tmp_path)]):
        said = refused(running, 6, *verb)
        assert said.startswith(f"cannot use {running.root}/state: a daemon is running on it")
    assert {path: path.stat().st_ino for path in (running.root / "state").rglob("*")} == before


def test_compact_loses_nothing_but_free_space(stopped):
    state_dir = stopped.root / "state"
    for number in (1, 2):
        shutil.copytree(place(stopped), state_dir / f"daemondb.bad-{number}")
    incidents.write(place(stopped), (Incident("2026-11-23T08:00:00.000Z", "as told"),))
    before = exported(stopped)
    found = stopped.json("db", "compact")
    assert found["bytesAfter"] < found["bytesBefore"]
    assert exported(stopped) == before
    assert [one.detail for one in incidents.read(place(stopped))] == ["as told"]
    kept = {path.name for path in state_dir.glob("daemondb*")}
    assert kept == {"daemondb", "daemondb.bad-1", "daemondb.bad-2"}
    modes = {path.stat().st_mode & 0o777 for path in place(stopped).iterdir()}
    assert (modes, place(stopped).stat().st_mode & 0o777) == ({0o600}, 0o700)
    stopped.start()
    assert [one["detail"] for one in stopped.json("status")["store"]["incidents"]] == ["as told"]


# --- restore -----------------------------------------------------------------------------


def test_a_restored_backup_is_another_store_with_the_statuses_of_its_time(running, tmp_path):
    running.json("db", "backup", str(tmp_path))
    before = running.json("db", "stats")["generation"]
    running.terminate()
    incidents.write(place(running), (Incident("2026-11-23T08:00:00.000Z", "as told"),))
    found = running.json("db", "restore", str(tmp_path))
    assert found["actions"] == 60
    aside = Path(found["setAside"])
    assert examine(aside).condition is Condition.SOUND
    after = running.json("db", "stats")
    assert after["generation"] != before
    assert [one.detail for one in incidents.read(place(running))] == ["as told"]
    running.start()
    running.wait_phase("action 59", "scheduled")
    assert examine(tmp_path).condition is Condition.SOUND


def untouched(daemon: Daemon) -> dict[str, bytes]:
    state_dir = daemon.root / "state"
    found = {path for path in state_dir.rglob("*") if path.is_file() and path.name != "lock"}
    return {str(path.relative_to(state_dir)): path.read_bytes() for path in found}


def spoil_zero(directory: Path) -> None:
    zero(directory / "data.mdb", 0)


def spoil_text(directory: Path) -> None:
    (directory / "data.mdb").write_text("mine")


def spoil_foreign(directory: Path) -> None:
    (directory / "data.mdb").unlink()
    with lmdb.open(str(directory), lib_version=0) as env, env.begin(write=True) as txn:
        txn.put(b"somebody's", b"own")


def spoil_newer(directory: Path) -> None:
    newer = (migrations.FORMAT + 1).to_bytes(4, "big")
    with lmdb.open(str(directory), max_dbs=16, lib_version=0) as env:
        meta = env.open_db(b"meta")
        with env.begin(write=True) as txn:
            txn.put(b"format", newer, db=meta)


def spoil_empty(directory: Path) -> None:
    (directory / "data.mdb").write_bytes(b"")


def spoil_missing(directory: Path) -> None:
    (directory / "data.mdb").unlink()


@pytest.mark.parametrize(
    "spoil", [spoil_zero, spoil_text, spoil_foreign, spoil_newer, spoil_empty, spoil_missing]
)
def test_what_is_no_good_backup_is_refused_and_nothing_changed(stopped, tmp_path, spoil):
    stopped.json("db", "backup", str(tmp_path))
    spoil(tmp_path)
    before = untouched(stopped)
    said = refused(stopped, 1, "restore", tmp_path)
    assert said.startswith("cannot restore")
    assert str(tmp_path) in said
    assert untouched(stopped) == before


def test_a_backup_of_an_older_format_is_restored(stopped):
    assert stopped.json("db", "restore", str(FORMAT_1))["actions"] == 8
    assert stopped.json("db", "stats")["format"] == migrations.FORMAT
    assert stopped.json("db", "check")["good"]


def test_damaged_values_of_a_backup_are_put_aside(stopped, tmp_path):
    flip("actions", action_key("action 7"), stopped.root / "state")
    shutil.copyfile(place(stopped) / "data.mdb", tmp_path / "data.mdb")
    assert stopped.json("db", "restore", str(tmp_path))["actions"] == 19
    assert stopped.json("db", "check")["good"]
    assert stopped.json("db", "stats")["tables"]["damaged"]["rows"] == 1


def test_a_backup_is_restored_where_no_store_is_left(stopped, tmp_path):
    stopped.json("db", "backup", str(tmp_path))
    shutil.rmtree(place(stopped))
    found = stopped.json("db", "restore", str(tmp_path))
    assert (found["actions"], found["setAside"]) == (20, None)
    assert stopped.json("db", "check")["good"]


@pytest.mark.skipif(os.geteuid() != 0, reason="files are given to somebody else by root only")
@pytest.mark.parametrize("verb", ["compact", "restore"])
def test_what_root_makes_belongs_to_the_daemons_user(stopped, tmp_path, verb):
    stopped.json("db", "backup", str(tmp_path))
    state_dir = stopped.root / "state"
    for path in (state_dir, *state_dir.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    stopped.json("db", *({"compact": [verb], "restore": [verb, str(tmp_path)]}[verb]))
    owners = {path.stat().st_uid for path in (state_dir, *state_dir.rglob("*"))}
    assert owners == {NOBODY}


# --- acknowledge, rights, usage ----------------------------------------------------------


def test_acknowledge_says_what_was_seen(stopped):
    (place(stopped) / "data.mdb").write_bytes(b"")
    stopped.start()
    (seen,) = stopped.json("status")["store"]["incidents"]
    assert stopped.json("db", "acknowledge") == {"schemaVersion": 1, "acknowledged": [seen]}
    assert stopped.json("db", "acknowledge")["acknowledged"] == []
    assert stopped.ctl("db", "acknowledge").stdout.split() == ["seen", "nothing"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("also", ["", "running"])
def test_whoever_has_no_rights_to_the_files_is_told_so(stopped, tmp_path, also):
    """A root without its privileges, because it can read this installation wherever it is."""
    if also:
        stopped.start()
    state_dir = stopped.root / "state"
    for path in (state_dir, *state_dir.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    for verb in (*READ_VERBS, ["backup", tmp_path], ["compact"], ["restore", FORMAT_1]):
        with without_privileges(stopped, *verb) as asked:
            _, said = asked.communicate(timeout=30)
        assert (asked.returncode, said[:20]) == (4, b"geosched-ctl: cannot"), (verb, said)
    assert list(tmp_path.iterdir()) == []


def without_privileges(daemon: Daemon, *verb: str | Path) -> subprocess.Popen[bytes]:
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    command = [*drop, commands() / "geosched-ctl", "--config", daemon.config, "db", *verb]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_only_operators_say_that_they_have_seen_it(stopped):
    (place(stopped) / "data.mdb").write_bytes(b"")
    stopped.start()
    stopped.root.chmod(0o755)
    (stopped.root / "run").chmod(0o755)
    (stopped.root / "run" / "control.sock").chmod(0o666)
    become = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})"
    ask = "sys.exit(run(sys.argv[1:]))"
    asked = subprocess.run(
        [
            Path(sys.executable),
            "-c",
            f"import os, sys; from geosched.ipc.ctl.main import run; {become}; {ask}",
            "--socket",
            stopped.root / "run" / "control.sock",
            *("db", "acknowledge"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert asked.returncode == 4, asked
    assert len(stopped.json("status")["store"]["incidents"]) == 1


@pytest.mark.parametrize("verb", [*READ_VERBS, ["backup", "copy"], ["compact"], ["restore", "/"]])
def test_where_no_daemon_ever_was_nothing_is_made(daemon, verb):
    """A lock file of ours would keep a daemon of another user out."""
    said = refused(daemon, 1, *verb)
    assert said.startswith("cannot")
    assert str(daemon.root / "state") in said
    assert not (daemon.root / "state").exists()


@pytest.mark.parametrize("verb", READ_VERBS)
def test_a_state_directory_without_a_database_stays_as_it_is(daemon, verb):
    (daemon.root / "state").mkdir()
    said = refused(daemon, 1, *verb)
    assert said == f"cannot read a database in {daemon.root}/state: there is none"
    assert list((daemon.root / "state").iterdir()) == []


@pytest.mark.parametrize("verb", READ_VERBS[1:])
def test_a_foreign_database_is_named_as_such(stopped, verb):
    spoil_foreign(place(stopped))
    done = stopped.ctl("db", *verb)
    assert done.returncode == 1
    assert "no daemonDB" in done.stdout + done.stderr


def test_bad_usage_and_a_missing_configuration_are_exit_2(daemon):
    for arguments in (["backup"], ["restore", str(daemon.root / "none")], ["stats", "more"]):
        assert "--help" in refused(daemon, 2, *arguments)
    daemon.config.unlink()
    for verb in READ_VERBS:
        said = refused(daemon, 2, *verb)
        assert said.startswith("cannot read the configuration")


def test_what_is_not_done_in_time_is_ended(daemon, tmp_path):
    large(daemon)
    said = refused(daemon, 8, "check", "--timeout", "0.01")
    assert said == "cannot check: not done within 0.01 s"
    wait_for(lambda: not storetools(daemon), what="the end of the one that checked")
    daemon.json("db", "check")


# --- the daemon's own --------------------------------------------------------------------


def kept(daemon: Daemon) -> list[str]:
    return [path.name for path in Places(daemon.root / "state").backups.glob("*")]


def test_a_daemon_backs_itself_up_when_something_has_changed(daemon):
    scripts = {"default": {"command": ["/bin/true"]}}
    daemon.configure(scripts=scripts, backup_interval="1s")
    daemon.send([entry("first", 3600, 7200)])
    daemon.start()
    wait_for(lambda: daemon.json("status")["store"]["lastBackupAt"], what="a backup")
    for number in range(3):
        newest = sorted(kept(daemon))
        daemon.send([entry(f"another {number}", 3600, 7200)])
        wait_for(lambda newest=newest: sorted(kept(daemon)) != newest, what="another backup")
    wait_for(lambda: len(kept(daemon)) == 2 and not backing_up(daemon), what="two backups")
    wait_for(lambda: not daemon.json("status")["store"]["backupError"])
    store = settled(daemon)
    names = kept(daemon)
    assert len(names) == 2
    for name in names:
        backup = daemon.root / "state" / "backups" / name
        assert examine(backup).condition is Condition.SOUND
        assert ((backup / "data.mdb").stat().st_mode & 0o777) == 0o600
    last = parse_instant(store["lastBackupAt"])

    def three_seconds_on() -> bool:
        pulled = parse_instant(daemon.json("status")["backend"]["lastPullAt"])
        return bool(pulled > last + 3_000_000)

    wait_for(three_seconds_on, what="pulls that change nothing")
    assert kept(daemon) == names
    assert daemon.json("status")["store"]["lastBackupAt"] == store["lastBackupAt"]


def settled(daemon: Daemon) -> dict[str, Any]:
    """The store's view once the newest of what was sent is in a backup."""

    def newest() -> dict[str, Any] | None:
        place = daemon.root / "state" / "backups" / max(kept(daemon), key=int, default="0")
        try:
            with lmdb.open(str(place), max_dbs=16, readonly=True, lock=False) as env:
                actions = env.open_db(b"actions", create=False)
                with env.begin() as txn:
                    there = txn.get(action_key("another 2"), db=actions)
        except lmdb.Error:
            return None
        store = daemon.json("status")["store"]
        return store if there and not backing_up(daemon) else None

    found = wait_for(newest, what="a backup of all of it")
    assert found is not None
    return found


def backing_up(daemon: Daemon) -> list[int]:
    return [pid for pid in storetools(daemon) if lives(pid)]


def test_a_killed_backup_hurts_neither_the_daemon_nor_the_backups(daemon):
    scripts = {"default": {"command": ["/bin/true"]}}
    daemon.configure(scripts=scripts, backup_interval="1s")
    daemon.send([entry("first", 3600, 7200)])
    daemon.start()
    wait_for(lambda: daemon.json("status")["store"]["lastBackupAt"], what="a backup")
    good = daemon.json("status")["store"]["lastBackupAt"]
    daemon.send([entry("another", 3600, 7200)])
    (pid, *_) = wait_for(lambda: backing_up(daemon), what="a backup being made")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: daemon.json("status")["store"]["backupError"], what="the word")
    assert "no backup could be made: it was killed" in daemon.ctl("status").stdout
    assert daemon.json("status")["store"]["lastBackupAt"] >= good

    def made_again() -> bool:
        store = daemon.json("status")["store"]
        return store["backupError"] is None and store["lastBackupAt"] > good

    wait_for(made_again, what="the next backup")
    for name in kept(daemon):
        assert name.isdigit()
        assert examine(daemon.root / "state" / "backups" / name).condition is Condition.SOUND


def test_a_daemon_that_leaves_takes_its_backup_with_it(daemon):
    scripts = {"default": {"command": ["/bin/true"]}}
    daemon.configure(scripts=scripts, backup_interval="1s")
    daemon.send([entry("first", 3600, 7200)])
    daemon.start(wait=False)
    wait_for(lambda: backing_up(daemon) and kept_or_making(daemon), what="a backup being made")
    daemon.kill()
    wait_for(lambda: not backing_up(daemon), what="the end of the one that copied")
    daemon.start()
    wait_for(lambda: daemon.json("status")["store"]["lastBackupAt"], what="a backup")
    wait_for(lambda: not backing_up(daemon))
    assert all(name.isdigit() for name in kept(daemon))


def kept_or_making(daemon: Daemon) -> list[str]:
    return os.listdir(daemon.root / "state" / "backups") if kept(daemon) else ["."]
