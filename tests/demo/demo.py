"""`make demo`: the main job, live. A real daemon, real scripts, one `kill -9`.

Seven actions a few seconds long, each with the end it must come to; the exit code is 0
only if each came to it, for its reason. What is shown comes from `geosched-ctl` alone.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from support.daemon import Daemon, daemon_installation, entry
from support.wait import wait_for

SECONDS_MAX = 38.0
COLOURS = {"FINISHED": "green", "FAILED": "red", "WONT_START": "yellow", "WONT_FINISH": "magenta"}


@dataclass(frozen=True)
class Story:
    """An action of the demo and the end it must come to."""

    id: str
    start: float
    end: float
    type: str
    status: str
    reason: str
    why: str


STORIES = (
    Story("finishes", 1, 60, "quick", "FINISHED", "completed", "its script exited with 0"),
    Story("fails", 1.5, 60, "fails", "FAILED", "exit-code", "its script exited with 7"),
    Story("too-late", -60, -1, "quick", "WONT_START", "window-missed", "its window was over"),
    Story("cancelled", 2, 60, "block", "WONT_START", "withdrawn", "withdrawn before it began"),
    Story("withdrawn", 1, 60, "block", "WONT_FINISH", "withdrawn", "withdrawn while it ran"),
    Story("window", 2, 9, "block", "FINISHED", "window-over", "it ran until its window ended"),
    Story(
        "survivor", 1, 14, "block", "FINISHED", "window-over", "killed with the daemon, ran again"
    ),
)

SCRIPTS = {
    "quick": "note began; sleep 1; echo done",
    "fails": "note began; echo 'something is wrong' >&2; exit 7",
    "block": "trap 'exit 0' TERM\nnote began\nwhile :; do sleep 0.2; done",
}


class Stage:
    """What the audience sees: the actions, and beside them what the demo just did."""

    def __init__(self, daemon: Daemon, console: Console) -> None:
        self.daemon = daemon
        self.lines: list[str] = []
        self.started = time.monotonic()
        self.console = console
        self.actions: list[dict[str, Any]] = []
        self.live = Live(console=console, refresh_per_second=8, transient=True)

    def tell(self, text: str) -> None:
        line = f"{time.monotonic() - self.started:5.1f} s  {text}"
        self.lines.append(line)
        if not self.console.is_terminal:
            self.console.print(line)

    def look(self) -> list[dict[str, Any]]:
        done = self.daemon.ctl("-o", "json", "list")
        if done.returncode == 0:
            new = json.loads(done.stdout)["actions"]
            self._tell_changes(new)
            self.actions = new
        self.live.update(Group(actions_table(self.actions), Panel("\n".join(self.lines[-12:]))))
        return self.actions

    def _tell_changes(self, new: list[dict[str, Any]]) -> None:
        old = {action["id"]: action["phase"] for action in self.actions}
        for action in new:
            if old.get(action["id"]) not in (None, action["phase"]):
                told = action["executionStatus"] if action["phase"] == "done" else action["phase"]
                self.tell(f"{action['id']}: {told}")

    def until(self, *phases: tuple[str, str]) -> None:
        """Look on until each action is in its phase."""

        def reached() -> bool:
            now = {action["id"]: action["phase"] for action in self.look()}
            return all(now.get(action_id) == phase for action_id, phase in phases)

        left = max(1.0, self.started + SECONDS_MAX - time.monotonic())
        wait_for(reached, seconds=left, what=f"{phases}\n{self.daemon.log_text()}")


def actions_table(actions: list[dict[str, Any]]) -> Table:
    table = Table(expand=True)
    for column in ("action", "phase", "status", "reason", "attempt"):
        table.add_column(column)
    for action in actions:
        status = action["executionStatus"] or "NULL"
        colour = COLOURS.get(status, "cyan")
        table.add_row(
            action["id"],
            action["phase"],
            f"[{colour}]{status}[/]",
            action["reason"] or "",
            str(action["attempt"]),
        )
    return table


def play(daemon: Daemon, stage: Stage) -> None:
    told = {story.id: entry(story.id, story.start, story.end, type=story.type) for story in STORIES}
    daemon.send(list(told.values()))
    stage.tell("geoschedd starts, and pulls seven actions")
    daemon.start()
    stage.until(("too-late", "done"), ("cancelled", "scheduled"))
    stage.tell("the backend withdraws 'cancelled' before it begins")
    daemon.send([told[name] for name in told if name != "cancelled"])
    stage.until(("withdrawn", "running"), ("window", "running"), ("survivor", "running"))
    stage.until(("finishes", "done"), ("fails", "done"), ("cancelled", "done"))
    stage.tell("the backend withdraws 'withdrawn' while it runs")
    daemon.send([told[name] for name in told if name not in ("cancelled", "withdrawn")])
    stage.until(("withdrawn", "done"), ("window", "done"))
    stage.tell("kill -9: the daemon is dead; its scripts follow within seconds")
    daemon.kill()
    stage.tell("geoschedd starts again, and returns to where it was")
    daemon.start()
    stage.until(("survivor", "running"))
    stage.until(*((story.id, "done") for story in STORIES))
    stage.tell("every action has ended; geoschedd is asked to stop")
    code = daemon.terminate()
    stage.tell(f"geoschedd left with exit code {code}")
    if code:
        raise AssertionError(f"geoschedd left with {code}\n{daemon.log_text()}")


def verdict(stage: Stage, console: Console) -> bool:
    """The final table: where each status came from, and whether it is the right one."""
    table = Table(title="How it went", expand=True)
    for column in ("action", "status", "reason", "because"):
        table.add_column(column)
    ends = {action["id"]: action for action in stage.actions}
    right = True
    for story in STORIES:
        end = ends.get(story.id, {"executionStatus": None, "reason": None, "attempt": 0})
        as_told = (end["executionStatus"], end["reason"]) == (story.status, story.reason)
        if story.id == "survivor":
            as_told = as_told and end["attempt"] == 2
        right = right and as_told
        colour = (
            COLOURS.get(end["executionStatus"] or "", "cyan") if as_told else "bold white on red"
        )
        because = story.why if as_told else f"WRONG: should be {story.status} ({story.reason})"
        shown = end["executionStatus"] or "NULL"
        table.add_row(story.id, f"[{colour}]{shown}[/]", end["reason"] or "", because)
    console.print(table)
    return right


def main() -> int:
    console = Console()
    with daemon_installation() as daemon:
        daemon.configure(
            scripts={
                name: {"command": [daemon.script(name, body)], "stop_grace": "2s"}
                for name, body in SCRIPTS.items()
            }
        )
        stage = Stage(daemon, console)
        with stage.live:
            play(daemon, stage)
        if console.is_terminal:
            console.print("\n".join(stage.lines))
        right = verdict(stage, console)
    seconds = time.monotonic() - stage.started
    words = "Every action ended as it should" if right else "Not every action ended as it should"
    console.print(f"{words}; {seconds:.0f} s.")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
