"""`geosched-ctl db compact` and `restore`: another store in the place of the old one."""

import os
import shutil
from pathlib import Path

import pytest
from geosched.supervisor.store import py_lmdb
from geosched.supervisor.store.repair import incidents
from geosched.supervisor.store.repair.examine import Condition, examine
from geosched.supervisor.store.repair.incidents import Incident
from geosched.supervisor.store.tables import migrations
from geosched.supervisor.store.tables.codec import action_key
from support.daemon import Daemon
from support.db import FORMAT_1, NOBODY, exported, place, refused, spoil_foreign
from support.layout import zero
from support.store import flip

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


def spoil_newer(directory: Path) -> None:
    newer = (migrations.FORMAT + 1).to_bytes(4, "big")
    with py_lmdb.open_environment(directory, max_dbs=16) as env:
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
    stopped.root.chmod(0o755)
    state_dir = stopped.root / "state"
    for path in (state_dir, *state_dir.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    stopped.json("db", *({"compact": [verb], "restore": [verb, str(tmp_path)]}[verb]))
    owners = {path.stat().st_uid for path in (state_dir, *state_dir.rglob("*"))}
    assert owners == {NOBODY}
