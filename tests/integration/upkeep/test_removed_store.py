"""A database whose files are removed while the daemon works on them is told of."""

import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from geosched.supervisor.host.sd_notify import ServiceManager
from geosched.supervisor.jobs import JobPlan
from geosched.supervisor.store.daemondb import DaemonDB
from geosched.supervisor.store.open import open_store
from support.daemon import Daemon, daemon_installation, entry


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as made:
        made.configure(scripts={"default": {"command": ["/bin/sleep", "60"]}})
        made.start()
        yield made


def remove(state: Path) -> None:
    shutil.rmtree(state)


def remove_the_file(state: Path) -> None:
    (state / "daemondb" / "data.mdb").unlink()


def replace(state: Path) -> None:
    copy = state / "copy"
    shutil.copy(state / "daemondb" / "data.mdb", copy)
    copy.rename(state / "daemondb" / "data.mdb")


@pytest.mark.parametrize("how", [remove, remove_the_file, replace], ids=lambda how: how.__name__)
def test_status_says_that_the_database_is_gone_and_what_to_do(daemon: Daemon, how: Any) -> None:
    before = daemon.json("status")
    assert (before["store"]["state"], before["daemon"]["degraded"]) == ("ok", None)
    how(daemon.root / "state")
    status = daemon.json("status")
    assert status["store"]["state"] == "removed"
    assert "removed" in status["daemon"]["degraded"]
    shown = daemon.ctl("status").stdout
    assert "database     removed" in shown
    assert "db restore" in shown
    assert "cannot be written" not in shown
    # What was opened still serves.
    daemon.send([entry("a", -1, 60)])
    daemon.json("sync")
    daemon.wait_status("a", "STARTED")


def test_the_log_says_it_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    db: DaemonDB = open_store(tmp_path, now_us=time.time_ns() // 1000)
    try:
        loop = SimpleNamespace(parts=SimpleNamespace(db=db))
        plan = JobPlan(cast(Any, loop), ServiceManager())
        caplog.set_level(logging.ERROR)
        plan.look_for_store()
        assert caplog.text == ""
        (db.store_dir / "data.mdb").unlink()
        plan.look_for_store()
        plan.look_for_store()
        assert caplog.text.count("were removed or replaced") == 1
    finally:
        db.close()


def test_a_disk_that_fails_is_not_taken_for_a_removal(tmp_path: Path, monkeypatch: Any) -> None:
    db: DaemonDB = open_store(tmp_path, now_us=time.time_ns() // 1000)
    try:
        for code, removed in ((5, False), (12, False), (2, True), (20, True)):

            def stat(*_: Any, code: int = code, **__: Any) -> Any:
                raise OSError(code, "as the kernel says")

            with monkeypatch.context() as patched:
                patched.setattr(Path, "stat", stat)
                assert db.removed is removed
    finally:
        db.close()
