"""The time that a backup may take: one that was killed gives the next twice as long."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from geosched.supervisor.config.sections import DaemonSettings
from geosched.supervisor.core.model import Instant
from geosched.supervisor.participant import News
from geosched.supervisor.store.tools.child_process import Answer
from geosched.supervisor.upkeep import backup
from geosched.supervisor.upkeep.backup import PERIODIC_BACKUP_SECONDS_MAX, Backup


class Copying:
    """A process that copies, until it is killed or done."""

    pid = 7

    def __init__(self, *_: object) -> None:
        self.pidfd = 0
        self.killed = False

    def kill(self) -> None:
        self.killed = True

    def answer(self) -> Answer:
        return Answer(b"", "", died_of="SIGKILL") if self.killed else Answer(b"{}", "")


class Host:
    """A backup whose processes only copy as long as a test wants."""

    def __init__(self, state_dir: Path) -> None:
        self.seconds = 0.0
        db = SimpleNamespace(last_transaction=1, check_readers=lambda: None)
        children = SimpleNamespace(adopt=lambda _child: None)
        settings = DaemonSettings(state_dir=state_dir, backup_interval_seconds=1.0)
        self.backup = Backup(db, children, settings)
        self._db = db

    @property
    def now(self) -> Instant:
        return Instant(int(self.seconds * 1e6), self.seconds)

    def copies_for(self, seconds: float) -> bool:
        """A backup was made that takes so long."""
        self._db.last_transaction += 1
        self.seconds += 10
        self.backup.begin_if_due(self.now)
        self.seconds += seconds
        self.backup.gather(News(), self.now)
        news = News()
        news.gone.append("backup")
        self.backup.gather(news, self.now)
        return self.backup.error is None


def test_a_backup_that_takes_too_long_has_twice_as_long_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "ChildProcess", Copying)
    monkeypatch.setattr(backup.os, "dup", lambda _descriptor: -1)
    host = Host(tmp_path)
    slow = 3 * PERIODIC_BACKUP_SECONDS_MAX
    assert [host.copies_for(slow) for _ in range(3)] == [False, False, True]
    assert not host.copies_for(slow), "after one that was made it begins anew"
