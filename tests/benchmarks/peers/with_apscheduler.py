"""APScheduler 3, its jobs in memory; each starts its command by `Popen`. See bare_loop.py."""

import json
import subprocess
import sys
from datetime import UTC, datetime

from apscheduler.schedulers.background import BackgroundScheduler

started = []


def start(command: list[str]) -> None:
    started.append(subprocess.Popen(command))


groups = json.loads(sys.stdin.readline())
# The default drops what is more than a second late.
scheduler = BackgroundScheduler(timezone=UTC, job_defaults={"misfire_grace_time": None})
scheduler.start()
print("ready", flush=True)
for at_ns, commands in zip(json.loads(sys.stdin.readline()), groups, strict=True):
    at = datetime.fromtimestamp(at_ns / 1e9, UTC)
    for command in commands.values():
        scheduler.add_job(start, "date", run_date=at, args=[command])
print("taken", flush=True)
sys.stdin.read()
scheduler.shutdown(wait=False)
