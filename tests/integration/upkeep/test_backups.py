"""The backups that a daemon makes of itself."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from geosched.ipc.instants import parse_instant
from geosched.supervisor.store import py_lmdb
from geosched.supervisor.store.files import StorePaths
from geosched.supervisor.store.repair.examine import Condition, examine
from geosched.supervisor.store.tables.codec import action_key
from support.daemon import Daemon, daemon_installation, entry, lives
from support.db import storetools
from support.wait import wait_for


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        yield installed


def kept(daemon: Daemon) -> list[str]:
    return [path.name for path in StorePaths(daemon.root / "state").backups.glob("*")]


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
            with py_lmdb.open_environment(place, max_dbs=16, readonly=True, lock=False) as env:
                actions = env.open_db(b"actions", create=False)
                with env.begin() as txn:
                    there = txn.get(action_key("another 2"), db=actions)
        except py_lmdb.Error:
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
