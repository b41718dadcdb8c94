"""What a soak measured, and how it is told."""

import statistics
from collections import Counter
from dataclasses import dataclass, field

from .checker import Fault
from .host import Resources

WORDS = {
    "double-run": "double runs",
    "orphan": "orphans older than 5 s",
    "lost-result": "lost results",
    "illegal-transition": "illegal transitions",
    "lost-report": "lost reports",
    "wrong-status": "wrong statuses",
}
#: The supervisor may take up so much more in the last third of its lives than in the first.
GROWTH_MAX = {"descriptors": 12, "threads": 2, "kilobytes": 12_000, "zombies": 6}

#: Of daemonDB: its free pages and tables, and each action with its runs and reports.
STORE_BYTES_MAX = 512 * 1024
STORE_BYTES_PER_ACTION_MAX = 2048


@dataclass
class Figures:
    """`resources` are readings of supervisors that were up for some seconds."""

    seed: int
    steps: int = 0
    actions: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    halts: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    recoveries: list[float] = field(default_factory=list)
    resources: list[Resources] = field(default_factory=list)
    store_bytes: int = 0

    def lines(self, faults: list[Fault], minutes: float) -> list[str]:
        found = Counter(fault.kind for fault in faults)
        kinds = ", ".join(
            f"{kind} {count} ({self.hits[kind]} hit)" for kind, count in self.kills.most_common()
        )
        told = [
            f"seed {self.seed}: {minutes:.1f} min, {self.steps} steps, {self.actions} actions",
            f"kills: {self.kills.total()}, of which {self.hits.total()} hit a live run: {kinds}",
            f"halts: {', '.join(f'{kind} {count}' for kind, count in self.halts.most_common())}",
            *(f"{word}: {found[kind]}" for kind, word in WORDS.items()),
        ]
        if self.recoveries:
            told.append(
                f"kill -9 of the supervisor to all background runs again: median "
                f"{statistics.median(self.recoveries):.2f} s, max {max(self.recoveries):.2f} s "
                f"({len(self.recoveries)} times)"
            )
        grown = ", ".join(f"{name} {by:+d}" for name, by in self.growth().items())
        told.append(f"supervisor, last third against first: {grown}")
        told.append(f"daemonDB: {self.store_bytes // max(1, self.actions)} bytes an action")
        return told

    def growth(self) -> dict[str, int]:
        """How much more the median of the last third is than that of the first."""
        third = len(self.resources) // 3
        if third == 0:
            return dict.fromkeys(GROWTH_MAX, 0)
        first, last = self.resources[:third], self.resources[-third:]
        return {
            name: int(
                statistics.median(reading[index] for reading in last)
                - statistics.median(reading[index] for reading in first)
            )
            for index, name in enumerate(GROWTH_MAX)
        }

    def leaks(self) -> list[str]:
        grown = self.growth()
        leaks = [f"{name} grew by {by}" for name, by in grown.items() if by > GROWTH_MAX[name]]
        if self.store_bytes > STORE_BYTES_MAX + self.actions * STORE_BYTES_PER_ACTION_MAX:
            leaks.append(f"daemonDB holds {self.store_bytes} bytes for {self.actions} actions")
        return leaks
