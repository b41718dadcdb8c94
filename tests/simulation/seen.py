"""What the onlooker remembers of one run, one action, and what the backend sent."""

from dataclasses import dataclass, field

from geosched.ipc.actions import Action, ExecutionStatus
from geosched.ipc.messages.runs import RunResult, StopReason
from geosched.supervisor.core.model import Record
from geosched.workers.sync.base import Snapshot


@dataclass(slots=True)
class RunSeen:
    """What is known of one run. `result` is its worker's word, if it could give it."""

    run_id: str
    action: Action  # as it was started with
    daemon: int  # the number of the daemon that started it
    decided_us: int
    stop: StopReason | None = None
    sent_us: int | None = None
    result: RunResult | None = None
    fails: bool = False  # there is no script for its type
    begun_boot_us: int | None = None  # when its script really began
    begun_wall_us: int = 0
    begin_heard_by: int = 0  # the number of the daemon that was told so
    until_us: int | None = None  # the end of its window, when it was asked to stop for that
    lost_wall_us: int | None = None  # when the daemon found that its worker is lost, or gave it up
    lost_boot_us: int = 0


@dataclass(slots=True)
class Seen:
    """What is known of one action. `reports` are owed to the backend, `told` of them are."""

    record: Record
    since_us: int  # waking time of its last change of state
    daemon: int
    run: RunSeen | None = None
    reports: list[tuple[ExecutionStatus, int]] = field(default_factory=list)
    told: int = 0
    refusals: int = 0


@dataclass(slots=True)
class Told:
    """What the backend sent: of the snapshots since the last that was applied whole, any
    entry may be in force."""

    applied: dict[str, Action | None] = field(default_factory=dict)
    coming: list[dict[str, Action | None]] = field(default_factory=list)

    def of(self, action_id: str) -> list[Action | None]:
        newer = [one[action_id] for one in self.coming if action_id in one]
        return [self.applied[action_id], *newer] if action_id in self.applied else newer

    def heard(self, snapshot: Snapshot) -> None:
        before: dict[str, Action | None] = {}
        for one in (self.applied, *self.coming):
            before |= one
        new: dict[str, Action | None] = {action.id: action for action in snapshot.actions}
        if not snapshot.unreadable_ids:  # S8: else nothing is absent for sure
            kept = {*snapshot.set_aside_ids}
            new |= dict.fromkeys((i for i in before if i not in new and i not in kept), None)
        if new not in self.coming[-1:]:
            self.coming.append(new)

    def whole(self) -> None:
        """The newest snapshot is applied, to its end; what it did not speak of is as unclear
        as before."""
        newest = self.coming.pop()
        self.applied |= newest
        left = [{i: sent for i, sent in one.items() if i not in newest} for one in self.coming]
        self.coming = [one for one in left if one]

    def is_clear(self, action_id: str) -> bool:
        return not any(action_id in one for one in self.coming)
