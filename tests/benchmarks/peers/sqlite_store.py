"""Add actions to APScheduler 3's SQLite job store, for at most so many seconds.

    sqlite_store.py FILE ACTIONS SECONDS

As durable as daemonDB: each job is on the disk when `add_job` returns. Of the two journals
that promise it the one with fewer writes is chosen. Prints how many were added, and at what cost.
"""

import json
import resource
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.jobstores.sqlalchemy import SQLAlchemyJobStore
from apscheduler.schedulers.background import BackgroundScheduler
from sqlalchemy import create_engine, event


def act(action: dict[str, object]) -> None:
    """Never called: all dates are far off."""


def durable(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


file, count, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
engine = create_engine(f"sqlite:///{file}")
event.listen(engine, "connect", durable)
scheduler = BackgroundScheduler(
    timezone=UTC, jobstores={"default": SQLAlchemyJobStore(engine=engine)}
)
scheduler.start()
first = datetime.now(UTC) + timedelta(days=1)
used, begun = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
added = 0
while added < count and time.monotonic() - begun < seconds:
    name, at = f"6f1c{added:08}-action", first + timedelta(seconds=added)
    action = {
        "id": name,
        "toDate": (at + timedelta(hours=1)).isoformat(),
        "appNames": ["Chrome"],
    }
    scheduler.add_job(act, "date", run_date=at, args=[action], id=name)
    added += 1
wall, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_SELF)
cpu = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
scheduler.shutdown()
print(json.dumps({"added": added, "cpu": cpu, "wall": wall}))
