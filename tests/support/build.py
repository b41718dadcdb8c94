"""Values for tests: an action of which only what matters has to be said."""

from typing import Any

from geosched.ipc.actions import Action
from geosched.ipc.instants import SECOND_US
from geosched.ipc.messages.runs import EndCause, RunResult
from geosched.supervisor.core.lifecycle import Rules, new_run_id
from geosched.supervisor.core.model import Due, Instant, Null, OpenRun, Record, Running, State

#: 2026-11-23T08:00:00Z, the middle of every window built here.
NOW_US = 1_795_420_800 * SECOND_US
HOUR_US = 3600 * SECOND_US
NOW = Instant(NOW_US)
BEFORE = Instant(NOW_US - 2 * HOUR_US)
AFTER = Instant(NOW_US + 2 * HOUR_US)
GENERATION = "0123456789abcdef"
RULES = Rules(GENERATION)
#: A slot and a worker are free.
DUE = Due(slot_free=True, worker_free=True)


def action(action_id: str = "a", **changes: Any) -> Action:
    values: dict[str, Any] = {
        "id": action_id,
        "from_us": NOW_US - HOUR_US,
        "to_us": NOW_US + HOUR_US,
        "should_be_executed": True,
        "app_names": ("Chrome", "Steam"),
    }
    return Action(**(values | changes))


def record(state: State | None = None, *, attempt: int = 0, **changes: Any) -> Record:
    fields = {key: changes.pop(key) for key in ("wanted", "failures", "reason") if key in changes}
    return Record(
        action(**changes), fields.pop("wanted", True), state or Null(), attempt=attempt, **fields
    )


def running(
    attempt: int = 1, stop: Any = None, begun_us: int | None = None, **changes: Any
) -> Record:
    run_id = new_run_id(GENERATION, "a", attempt)
    run = OpenRun(run_id, NOW_US - HOUR_US, stop, begun_us)
    return record(Running(run), attempt=attempt, **changes)


def result(attempt: int = 1, **changes: Any) -> RunResult:
    values: dict[str, Any] = {
        "run_id": new_run_id(GENERATION, "a", attempt),
        "cause": EndCause.EXITED,
        "ended_us": NOW_US,
        "exit_code": 0,
        "begun_us": NOW_US - HOUR_US,
    }
    return RunResult(**(values | changes))
