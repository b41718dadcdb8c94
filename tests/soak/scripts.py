"""The scripts of a soak, and what they write down of themselves.

A line of the journal is `begin|end|double ACTION RUN SECONDS-SINCE-BOOT`, appended by one
write. A script holds its action's lock for its whole life, and what it starts does not.
"""

from collections.abc import Iterator
from pathlib import Path

from support.daemon import Daemon

from .checker import Action, Begun, Doubled, Ended

BACKGROUND = "background"
#: What each kind does between its first word and its last; `9` is the lock.
_WORK = {
    "ok": "sleep 0.$((RANDOM_TENTH + 2)) 9>&-",
    "fails": "sleep 0.3 9>&-",
    "whole": "sleep 600 9>&- & wait $!",
    "deaf": "trap '' TERM; sleep 600 9>&- & wait $!",
    "brood": "setsid sleep 601 9>&- & (sleep 602 9>&- &) ; sleep 603 9>&- & sleep 1 9>&-",
    "again": "sleep 0.4 9>&-",
    BACKGROUND: "sleep 600 9>&- & wait $!",
}
_EXIT_CODE = {"ok": 0, "fails": 1, "brood": 0, "again": 1}
_RESTART = {"again": "on-failure", BACKGROUND: "always"}


def expectation(action_id: str, kind: str, until: float) -> Action:
    return Action(action_id, _EXIT_CODE.get(kind), kind in _RESTART, until)


def settings(daemon: Daemon) -> dict[str, dict[str, object]]:
    """A section of the configuration for each kind, its script written."""
    return {
        kind: {
            "command": [daemon.script(kind, _body(daemon, kind))],
            "stop_grace": "500ms",
            "heartbeat_timeout": "8s",
            "restart": _RESTART.get(kind, "never"),
            "restart_delay": "100ms",
            "restart_delay_max": "200ms",
        }
        for kind in _WORK
    }


def _body(daemon: Daemon, kind: str) -> str:
    return f"""RANDOM_TENTH=$(($$ % 8))
tell() {{
    read -r now _ < /proc/uptime
    echo "$1 $GEOSCHED_ACTION_ID $GEOSCHED_RUN_ID $now" >> "{daemon.journal}"
}}
exec 9>>"{daemon.root}/locks/$GEOSCHED_ACTION_ID"
flock -n 9 || tell double
tell begin
{_WORK[kind]}
tell end
exit {_EXIT_CODE.get(kind, 0)}"""


class Journal:
    """Reads what was appended since it was last read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> Iterator[Begun | Ended | Doubled]:
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole = file.read().rpartition(b"\n")[0]
        self._offset += len(whole) + 1 if whole else 0
        for line in whole.decode().splitlines():
            word, action, run, at = line.split()
            yield {"begin": Begun, "end": Ended, "double": Doubled}[word](float(at), action, run)
