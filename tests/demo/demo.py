"""`make demo`: the main job, live. A real daemon, real scripts, one `kill -9`.

Seven actions a few seconds long, each with the end it must come to; the exit code is 0
only if each came to it, for its reason. What is shown of them comes from `geosched-ctl` alone.
`--picture FILE` writes the last screen as an SVG.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from support.daemon import Daemon, daemon_installation, entry
from support.picture import picture
from support.wait import wait_for

SECONDS_MAX = 38.0
COLOURS = {"FINISHED": "green", "FAILED": "red", "WONT_START": "yellow", "WONT_FINISH": "magenta"}
ALIVE, WINDOW = "blue", "bright_black"

#: The timeline: seconds since the actions were sent, a column for each half.
FIRST_SECOND, LAST_SECOND, CELL_SECONDS = -1, 18, 0.5
CELLS = int((LAST_SECOND - FIRST_SECOND) / CELL_SECONDS)
PICTURE_COLUMNS = 80

#: When something is done to the actions or to the daemon: between two columns of the timeline
#: and after whatever came before, so that two demos look alike.
CANCELLED_AT, WITHDRAWN_AT, KILLED_AT, RESTARTED_AT = 3.1, 5.1, 10.1, 11.7

#: How long `geosched-ctl` may take on a host that has much to do.
LOOK_SECONDS_MAX = 0.7


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
    Story("finishes", 2, 13, "quick", "FINISHED", "completed", "exited with 0"),
    Story("fails", 2.5, 13, "fails", "FAILED", "exit-code", "exited with 7"),
    Story("too-late", -1, -0.5, "quick", "WONT_START", "window-missed", "window was over"),
    Story("cancelled", 6, 13, "block", "WONT_START", "withdrawn", "withdrawn early"),
    Story("withdrawn", 2, 13, "block", "WONT_FINISH", "withdrawn", "withdrawn midway"),
    Story("window", 3, 9, "block", "FINISHED", "window-over", "ran to the end"),
    Story("survivor", 2, 18, "block", "FINISHED", "window-over", "died, ran again"),
)

SCRIPTS = {
    "quick": "note began; sleep 1; echo done",
    "fails": "note began; echo 'something is wrong' >&2; exit 7",
    "block": "trap 'exit 0' TERM\nnote began\nwhile :; do sleep 0.1; done",
}


class Stage:
    """What the audience sees: the actions, and below them what the demo just did. It begins
    when the daemon answers."""

    def __init__(self, daemon: Daemon, console: Console) -> None:
        self.daemon = daemon
        self.console = console
        self.began = time.monotonic()
        self.began_wall = time.time()
        self.steps: list[tuple[float, str]] = []  # what the demo did
        self.lines: list[str] = []  # that, and what came of it
        self.lives: list[tuple[float, float | None]] = [(FIRST_SECOND, None)]  # of the daemon
        self.actions: list[dict[str, Any]] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.live = Live(console=console, refresh_per_second=8, transient=True)

    def now(self) -> float:
        """Seconds since the actions were sent."""
        return time.monotonic() - self.began

    def do(self, text: str) -> None:
        self.steps.append((self.now(), text))
        self._tell(f"[bold]{text}[/]")

    def _tell(self, text: str) -> None:
        self.lines.append(f"{self.now():5.1f} s  {text}")
        if not self.console.is_terminal:
            self.console.print(self.lines[-1])

    def restart(self) -> None:
        self.daemon.start()
        self.lives.append((self.now(), None))

    def kill(self) -> None:
        self.daemon.kill()
        self._dies()

    def terminate(self) -> int:
        code = self.daemon.terminate()
        self._dies()
        return code

    def _dies(self) -> None:
        began, _ = self.lives[-1]
        self.lives[-1] = (began, self.now())

    def look(self) -> list[dict[str, Any]]:
        done = self.daemon.ctl("-o", "json", "list")
        if done.returncode == 0:
            new = json.loads(done.stdout)["actions"]
            self._tell_changes(new)
            self.actions = new
            self._keep_runs()
        self.live.update(Group(timeline(self), Text.from_markup("\n".join(self.lines[-12:]))))
        return self.actions

    def _tell_changes(self, new: list[dict[str, Any]]) -> None:
        old = {action["id"]: action["phase"] for action in self.actions}
        for action in new:
            if old.get(action["id"]) not in (None, action["phase"]):
                told = action["executionStatus"] if action["phase"] == "done" else action["phase"]
                self._tell(f"{action['id']}: {told}")

    def _keep_runs(self) -> None:
        for action in self.actions:
            run = action["run"]
            if run is None:
                continue
            if run["runId"] not in self.runs and run["attempt"] > 1:
                shown = self.daemon.json("show", action["id"])  # how the one before ended
                self.runs |= {each["runId"]: each | {"id": action["id"]} for each in shown["runs"]}
            self.runs[run["runId"]] = run | {"id": action["id"]}

    def until(self, *phases: tuple[str, str]) -> None:
        """Look on until each action is in its phase."""

        def reached() -> bool:
            now = {action["id"]: action["phase"] for action in self.look()}
            return all(now.get(action_id) == phase for action_id, phase in phases)

        left = max(1.0, SECONDS_MAX - self.now())
        wait_for(reached, seconds=left, what=f"{phases}\n{self.daemon.log_text()}")

    def until_second(self, second: float) -> None:
        while (left := second - self.now()) > 0:
            if left > LOOK_SECONDS_MAX:
                self.look()
            time.sleep(min(0.1, max(0.0, second - self.now())))

    def second(self, instant: str) -> float:
        """An instant of `geosched-ctl` in seconds since the actions were sent."""
        return datetime.fromisoformat(instant).timestamp() - self.began_wall


# --- the screen -------------------------------------------------------------------------


def timeline(stage: Stage, told: dict[str, str] | None = None) -> Table:
    """The daemon and each action on a line: its window thin, its runs thick."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("action", no_wrap=True)
    table.add_column(axis(), no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("because" if told else "phase")
    table.add_row("geoschedd", daemon_bar(stage), "", "")
    actions = {action["id"]: action for action in stage.actions}
    for story in STORIES:
        if story.id not in actions:
            continue
        action = actions[story.id]
        status = action["executionStatus"] or "NULL"
        colour = COLOURS.get(status, "cyan")
        attempt = f", attempt {action['attempt']}" if action["attempt"] > 1 else ""
        because = told[story.id] if told else f"{action['phase']}{attempt}"
        bar = action_bar(stage, story, colour)
        table.add_row(story.id, bar, Text(status, style=colour), because)
    return table


def axis() -> Text:
    marks = " " * CELLS
    for second in range(0, LAST_SECOND, 5):
        mark = f"{second} s" if second == 0 else str(second)
        marks = marks[: cell(second)] + mark + marks[cell(second) + len(mark) :]
    return Text(marks, style="not bold")


def daemon_bar(stage: Stage) -> Text:
    bar = Text(" " * CELLS)
    for began, ended in stage.lives:
        draw(bar, "━", ALIVE, began, stage.now() if ended is None else ended)
    if len(stage.lives) > 1:
        _, killed = stage.lives[0]
        assert killed is not None
        draw(bar, "\N{MULTIPLICATION SIGN}", "bold red", killed, killed)
    return bar


def action_bar(stage: Stage, story: Story, colour: str) -> Text:
    bar = Text(" " * CELLS)
    draw(bar, "─", WINDOW, story.start, story.end)
    _, died = stage.lives[-1]
    latest = stage.now() if died is None else died
    for run in stage.runs.values():
        if run["id"] == story.id and run["startedAt"]:
            ended = stage.second(run["endedAt"]) if run["endedAt"] else latest
            draw(bar, "━", colour, stage.second(run["startedAt"]), ended)
    return bar


def cell(second: float) -> int:
    return int((second - FIRST_SECOND + 0.01) // CELL_SECONDS)


def draw(bar: Text, line: str, style: str, began: float, ended: float) -> None:
    """Draw a line from one instant to the other, at least a cell long."""
    first, last = max(0, cell(began)), min(CELLS, max(cell(ended), cell(began) + 1))
    plain = bar.plain
    bar.plain = plain[:first] + line * (last - first) + plain[last:]
    bar.stylize(style, first, last)


# --- the play ---------------------------------------------------------------------------


def play(daemon: Daemon, stage: Stage) -> None:
    told = {story.id: entry(story.id, story.start, story.end, type=story.type) for story in STORIES}
    daemon.send(list(told.values()))
    stage.do("the backend has seven actions, and geoschedd pulls them")
    stage.until(("too-late", "done"), ("cancelled", "scheduled"))
    stage.until_second(CANCELLED_AT)
    stage.do("the backend withdraws 'cancelled' before it begins")
    daemon.send([told[name] for name in told if name != "cancelled"])
    stage.until(("withdrawn", "running"), ("window", "running"), ("survivor", "running"))
    stage.until(("finishes", "done"), ("fails", "done"), ("cancelled", "done"))
    stage.until_second(WITHDRAWN_AT)
    stage.do("the backend withdraws 'withdrawn' while it runs")
    daemon.send([told[name] for name in told if name not in ("cancelled", "withdrawn")])
    stage.until(("withdrawn", "done"), ("window", "done"))
    stage.until_second(KILLED_AT)
    stage.do("[red]kill -9[/]: the daemon is dead, and its scripts with it")
    stage.kill()
    stage.until_second(RESTARTED_AT)
    stage.do("long live the daemon: it starts again, and goes on where it was")
    stage.restart()
    stage.until(*((story.id, "done") for story in STORIES))
    stage.do("every action has ended; geoschedd is asked to stop")
    code = stage.terminate()
    stage.do(f"geoschedd left with exit code {code}")
    if code:
        raise AssertionError(f"geoschedd left with {code}\n{daemon.log_text()}")


def verdict(stage: Stage) -> tuple[dict[str, str], bool]:
    """Why each action has its status, and whether all are as they should be."""
    ends = {action["id"]: action for action in stage.actions}
    told = {}
    for story in STORIES:
        end = ends.get(story.id, {"executionStatus": None, "reason": None, "attempt": 0})
        right = (end["executionStatus"], end["reason"]) == (story.status, story.reason)
        if story.id == "survivor":
            right = right and end["attempt"] == 2
        wrong = f"[bold white on red]WRONG: {end['reason']}; not {story.status} ({story.reason})[/]"
        told[story.id] = story.why if right else wrong
    return told, all(told[story.id] == story.why for story in STORIES)


def latest_start(stage: Stage) -> float:
    """By how many milliseconds the latest of the first runs missed its instant."""
    instants = {action["id"]: stage.second(action["fromDate"]) for action in stage.actions}
    late = (
        1000 * (stage.second(run["startedAt"]) - instants[run["id"]])
        for run in stage.runs.values()
        if run["attempt"] == 1 and run["startedAt"]
    )
    return max(late, default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--picture", type=Path, metavar="FILE")
    options = parser.parse_args()
    console = Console(highlight=False)
    with daemon_installation() as daemon:
        daemon.configure(
            scripts={
                name: {"command": [daemon.script(name, body)], "stop_grace": "2s"}
                for name, body in SCRIPTS.items()
            }
        )
        daemon.start()
        stage = Stage(daemon, console)
        with stage.live:
            play(daemon, stage)
    told, right = verdict(stage)
    if console.is_terminal:
        console.print("\n".join(stage.lines))
    console.print(timeline(stage, told))
    words = "Every action ended as it should" if right else "Not every action ended as it should"
    late = latest_start(stage)
    console.print(f"{words}; {stage.now():.0f} s. The latest start was {late:.0f} ms late.")
    if options.picture and right:
        steps = "\n".join(f"[dim]{int(second):3} s[/]  {text}" for second, text in stage.steps)
        ended = f"[bold green]{words}.[/]"
        drawn = picture(
            steps, "", timeline(stage, told), "", ended, title="make demo", columns=PICTURE_COLUMNS
        )
        options.picture.parent.mkdir(exist_ok=True)
        options.picture.write_text(drawn)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
