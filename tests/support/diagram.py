"""The state diagram in the README, drawn by asking `decide` and never by hand.

`python tests/support/diagram.py` prints it. Every state is put to every event before, in
and after its window; an edge is drawn for each way from one box to another, and its label
names the events that lead there.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from geosched.ipc.actions import ExecutionStatus
from geosched.ipc.messages.runs import EndCause, RunResult, StopReason
from geosched.supervisor.core.lifecycle import Rules, decide, first_seen
from geosched.supervisor.core.model import (
    Absent,
    DaemonStarted,
    Due,
    Event,
    Hold,
    Instant,
    Null,
    Over,
    Record,
    RunEnded,
    Running,
    Sent,
    StopAsked,
    Waiting,
)
from geosched.supervisor.core.restart import RestartMode, RestartPolicy

from support.build import AFTER, BEFORE, GENERATION, NOW, NOW_US, action, record, result, running

NEVER = Rules(GENERATION)
ALWAYS = Rules(GENERATION, {"default": RestartPolicy(RestartMode.ALWAYS)})
NEW, NULL = "[*]", "NULL"
TERMINAL = tuple(status for status in ExecutionStatus if status.terminal)
STARTED = ("running", "stopping", "waiting")
STOPS_THAT_SETTLE = (StopReason.WINDOW_OVER, StopReason.WITHDRAWN, StopReason.OPERATOR)
BEGIN, END = "<!-- state diagram: begin -->", "<!-- state diagram: end -->"


class Edge(NamedTuple):
    old: str
    new: str


class Cause(NamedTuple):
    """An event under the words that the diagram has for it."""

    label: str
    event: Event
    rules: Rules = NEVER


def records() -> Iterator[Record]:
    """One record for each state that `decide` tells apart."""
    yield record()
    yield record(attempt=1)  # back from a restart of the daemon (S11a)
    yield running()
    for stop in StopReason:
        yield running(stop=stop)
        yield running(stop=stop, begun_us=NOW_US - 1)
    for last_ok in (True, False):
        yield record(Waiting(Hold(NOW_US, 1.0), last_ok), attempt=1)
    for status in TERMINAL:
        yield record(Over(status), attempt=1)


def causes(of: Record, when: Instant) -> Iterator[Cause]:
    """Every event, in each of the forms that make a difference."""
    yield Cause("withdrawn", Absent())
    yield Cause("withdrawn", Sent(action(should_be_executed=False)))
    yield Cause("configuration changed", Sent(action(app_names=("Solitaire",))))
    yield Cause("operator", StopAsked())
    yield Cause(_look(of), Due(slot_free=True))
    if not isinstance(of.state, Running):
        return
    for rules, more in ((NEVER, ""), (ALWAYS, ", restart")):
        yield Cause(f"exit 0{more}", RunEnded(_end(of, when)), rules)
        yield Cause(f"failure{more}", RunEnded(_end(of, when, exit_code=1)), rules)
        yield Cause(f"failure{more}", RunEnded(_end(of, when, cause=EndCause.WATCHDOG)), rules)
    yield Cause(
        "cannot start",
        RunEnded(_end(of, when, exit_code=None, cause=EndCause.CANNOT_START, begun_us=None)),
    )
    yield Cause("daemon restart", DaemonStarted(kept=None))


def edges() -> dict[Edge, list[str]]:
    """Which events lead from one box to another, in the order they were found."""
    found: dict[Edge, list[str]] = {}
    for when in (BEFORE, NOW, AFTER):
        for wanted in (True, False):
            seen = first_seen(action(should_be_executed=wanted), when, NEVER)
            label = "new" if wanted and when is not AFTER else "new, too late or not wanted"
            _note(found, Edge(NEW, _box(seen.after)), label)
        for old in records():
            for cause in causes(old, when):
                change = decide(old, cause.event, when, cause.rules)
                if change is None:
                    continue
                edge = Edge(_box(old), _box(change.after))
                if edge.old != edge.new:
                    _note(found, edge, _label(old, cause, when))
    return found


def render() -> str:
    """The diagram in the language of Mermaid."""
    lines = ["stateDiagram-v2"]
    lines += [f'    state "STARTED ({inner})" as {inner}' for inner in STARTED]
    found = edges()
    lines += [f"    {edge.old} --> {edge.new}: {' / '.join(why)}" for edge, why in found.items()]
    left = {edge.old for edge in found}
    lines += [f"    {status.value} --> {NEW}" for status in TERMINAL if status.value not in left]
    return "\n".join(lines)


def block() -> str:
    """What stands in the README between `BEGIN` and `END`."""
    return f"\n```mermaid\n{render()}\n```\n"


def _note(found: dict[Edge, list[str]], edge: Edge, label: str) -> None:
    labels = found.setdefault(edge, [])
    if label not in labels:
        labels.append(label)


def _box(of: Record) -> str:
    match of.state:
        case Null():
            return NULL
        case Running(run):
            return "running" if run.stop is None else "stopping"
        case Waiting():
            return "waiting"
        case Over(status):
            return status.value


def _look(of: Record) -> str:
    return "back-off over" if isinstance(of.state, Waiting) else "window open"


def _label(old: Record, cause: Cause, when: Instant) -> str:
    """The event in words, with what else makes it lead where it does."""
    label = cause.label
    if when is AFTER and isinstance(cause.event, Due | Sent) and label != "withdrawn":
        label = "window over"
    match old.state, cause.event:
        case Null(), _ if old.attempt and label != "window open":
            return f"{label}, had a run"  # S11a
        case Running(run), RunEnded(ended):
            never = run.begun_us is None and ended.begun_us is None
            return _end_label(run.stop, ended, label, late=when is AFTER, never=never)
        case Running(run), DaemonStarted() if run.stop in STOPS_THAT_SETTLE:
            return _gone(run.stop, never=run.begun_us is None)
        case Running(), DaemonStarted() if when is AFTER:
            return f"{label}, window over"
        case _:
            return label


def _end_label(
    stop: StopReason | None, ended: RunResult, label: str, *, late: bool, never: bool
) -> str:
    """Of a run that is being stopped the reason counts, and not how it exits (S13a)."""
    if stop in STOPS_THAT_SETTLE:
        return _gone(stop, never=never)
    if never and late:
        return "never began, window over"
    if stop is StopReason.CHANGED:
        return f"gone ({stop}), window over" if late else f"gone ({stop})"
    return "exit, window over" if late and ended.cause is EndCause.EXITED else label


def _gone(stop: StopReason | None, *, never: bool) -> str:
    """Only at the end of its window it counts whether its script began (S13)."""
    never = never and stop is StopReason.WINDOW_OVER
    return f"gone ({stop}), never began" if never else f"gone ({stop})"


def _end(of: Record, when: Instant, **changes: object) -> RunResult:
    return result(of.attempt, ended_us=when.wall_us, **changes)


if __name__ == "__main__":
    print(render())
