"""When a pass of forgetting takes its next step, and when it waits."""

from pathlib import Path

from geosched.supervisor.config.sections import DaemonSettings
from geosched.supervisor.core.model import Instant
from geosched.supervisor.host.children import News
from geosched.supervisor.store.daemondb import DaemonDB
from geosched.supervisor.upkeep.retention import Retention

NOW = Instant(2_000_000_000_000_000, monotonic_seconds=100.0)


def test_a_pass_waits_while_a_snapshot_is_applied(tmp_path: Path) -> None:
    db = DaemonDB.open(tmp_path)
    applying = [True]
    settings = DaemonSettings(state_dir=tmp_path, log_dir=tmp_path)
    retention = Retention(db, settings, lambda: applying[0], lambda _: None)
    assert retention.next_deadline(NOW) is None
    retention.look_for_old()
    retention.gather(News(), NOW)
    assert retention.next_deadline(NOW) is None  # nothing wakes the loop for it
    applying[0] = False
    assert retention.next_deadline(NOW) == NOW.monotonic_seconds
    retention.gather(News(), NOW)
    assert retention.next_deadline(NOW) is None
    db.close()
