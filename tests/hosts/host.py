"""A host as its owner sees it: its daemon, its actions, and what their scripts wrote."""

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from support.wait import wait_for

from .container import Container
from .report import CommandError

PLACE = Path("/var/lib/trial")
CONFIG = Path("/etc/geosched/geosched.toml")
LONG_SECONDS = 7200
#: A script takes two of the three seconds that it has when its daemon is killed.
SCRIPT = f"""#!/bin/sh
say() {{ echo "$1 $GEOSCHED_ACTION_ID $GEOSCHED_ATTEMPT" >>{PLACE}/journal; }}
say begin
trap 'say term; sleep 2; say end; exit 0' TERM
case $GEOSCHED_ACTION_ID in quick*) say end; exit 0 ;; esac
while :; do sleep 0.1; done
"""
SETTINGS = f"""[backend]
kind = "file"
path = "{PLACE}/actions.json"
poll_interval = "1s"
[scripts.default]
command = ["{PLACE}/script"]
stop_grace = "10s"
"""
MISTAKE = "[deamon]\n"


class Line(NamedTuple):
    """What a script wrote, of which action, in which attempt."""

    word: str
    action: str
    attempt: int


class Host:
    """Files are looked at from outside, so that a host that is off can be asked as well."""

    def __init__(self, box: Container) -> None:
        self.box = box
        self._entries: list[dict[str, object]] = []

    def path(self, path: Path) -> Path:
        return self.box.tree / path.relative_to("/")

    # --- its configuration ---------------------------------------------------------------

    def configure(self, settings: str = SETTINGS) -> None:
        """What `geosched-ctl init` and an editor leave."""
        script = self.path(PLACE / "script")
        script.parent.mkdir(exist_ok=True, parents=True)
        script.write_text(SCRIPT)
        script.chmod(0o755)
        if not self.path(PLACE / "actions.json").exists():
            self.send()
        self.path(CONFIG).parent.mkdir(exist_ok=True)
        self.path(CONFIG).write_text(settings)

    # --- its backend, and its scripts ----------------------------------------------------

    def send(self, *entries: dict[str, object]) -> None:
        """From now on these, and no others, are wanted."""
        self._entries = list(entries)
        self._write()

    def add(self, entry: dict[str, object]) -> None:
        self._entries.append(entry)
        self._write()

    def _write(self) -> None:
        target = self.path(PLACE / "actions.json")
        new = target.with_suffix(".new")
        new.write_text(json.dumps(self._entries))
        new.rename(target)

    def journal(self) -> list[Line]:
        path = self.path(PLACE / "journal")
        words = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [Line(word, action, int(attempt)) for word, action, attempt in words]

    def wait_for_line(self, word: str, action: str, attempt: int, *, seconds: float = 30) -> None:
        line = Line(word, action, attempt)
        wait_for(lambda: line in self.journal(), seconds=seconds, what=f"{line}", pause_seconds=0.1)

    def begin(self, name: str) -> None:
        """Have one action, and wait until its script runs."""
        self.send(action(name))
        self.wait_for_line("begin", name, 1)

    # --- its daemon ----------------------------------------------------------------------

    def ctl(self, *words: str) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.box.run(f"geosched-ctl -o json {' '.join(words)}"))
        return answer

    def pid(self) -> int:
        """0 while none answers."""
        done = self.box.ask("geosched-ctl -o json --timeout 5 ping")
        return int(json.loads(done.stdout)["pid"]) if done.returncode == 0 else 0

    def wait_for_daemon(self, *, other_than: int = 0, seconds: float = 60) -> int:
        def another() -> int:
            pid = self.pid()
            return pid if pid != other_than else 0

        wait_for(another, seconds=seconds, what="a daemon that answers", pause_seconds=0.2)
        return another()

    def wait_for_no_daemon(self, *, seconds: float = 60) -> None:
        wait_for(lambda: not self.pid(), seconds=seconds, what="no daemon", pause_seconds=0.2)

    def status_of(self, action_id: str) -> str:
        try:
            return str(self.ctl("show", action_id)["action"]["executionStatus"])
        except CommandError:
            return ""  # not heard of yet

    def wait_for_status(self, action_id: str, status: str, *, seconds: float = 30) -> None:
        def reached() -> bool:
            return self.status_of(action_id) == status

        wait_for(reached, seconds=seconds, what=f"{action_id} {status}", pause_seconds=0.2)


def action(name: str, *, begins: float = -1, lasts: float = LONG_SECONDS) -> dict[str, object]:
    """An entry of the backend; `begins` in seconds from now."""
    return {
        "id": name,
        "fromDate": instant(begins),
        "toDate": instant(begins + lasts),
        "shouldBeExecuted": True,
        "appNames": ["x"],
    }


def instant(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
