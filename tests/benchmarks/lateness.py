"""How late a command begins after its instant: the daemon's, and other software's, in turns.

A turn gives one contender a plan of single starts, and of bursts that share an instant; the
contenders take turns, several rounds long, so that a drift of the machine hits all alike.
"""

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from figures import Figure, Line, Remark, Table
from measuring import build_stamp, end_stamps, kill_all, read_stamps
from peers import BARE, PEERS, Groups, PeerError, install, started
from support.daemon import daemon_installation, entry
from support.wait import wait_for

OURS = "geosched"
LEAD_SECONDS = 3.0  # from the plan to its first instant; the daemon arms 2 s before it
SINGLE_SECONDS = 0.317  # between two single starts; falls on all parts of a second
BURST_SECONDS = 3.0  # between two bursts
LIFE_SECONDS = 120  # of what is started: nothing ends before its turn is over
LATE_SECONDS = 12.0  # after the last instant; what is not there by then has not started

#: Gives a contender its instants, one per group.
Give = Callable[[list[int]], None]


@dataclass(frozen=True)
class Size:
    rounds: int
    singles: int
    bursts: tuple[int, ...]

    def groups(self, command: Callable[[str], list[str]]) -> Groups:
        names = [[f"one-{n}"] for n in range(self.singles)]
        names += [[f"of{count}-{n}" for n in range(count)] for count in self.bursts]
        return [{name: command(name) for name in group} for group in names]

    def instants(self) -> list[int]:
        offsets = [n * SINGLE_SECONDS for n in range(self.singles)]
        offsets += [offsets[-1] + (n + 1) * BURST_SECONDS for n in range(len(self.bursts))]
        first_ms = (time.time_ns() + int(LEAD_SECONDS * 1e9)) // 1_000_000
        return [(first_ms + round(1000 * offset)) * 1_000_000 for offset in offsets]


FULL = Size(3, 10, (10, 100, 500))
QUICK = Size(1, 5, (100,))

#: Milliseconds late, of all rounds: contender, and how many shared the instant.
Late = dict[str, dict[int, list[float]]]


def bench(quick: bool) -> Iterator[Line]:
    size = QUICK if quick else FULL
    contenders: dict[str, Callable[[Groups], object]] = {OURS: _daemon}
    missing: dict[str, str] = {}
    for peer in PEERS:
        contenders[peer.name] = partial(started, peer)
        try:
            install(peer)
        except PeerError as error:
            missing[peer.name] = str(error)
    late: Late = {name: {} for name in contenders}
    for number in range(size.rounds):
        for name, contender in contenders.items():
            if name in missing:
                continue
            print(f"  round {number + 1} of {size.rounds}: {name}", file=sys.stderr, flush=True)
            try:
                _turn(contender, size, late[name])
            except (PeerError, AssertionError) as error:
                missing[name] = str(error).splitlines()[0]
    yield from _tables(late, missing, size)
    for name, why in missing.items():
        yield Remark(f"{name}: {why}")
    yield Remark(
        f"{size.rounds} rounds, {size.singles} single starts in each; what is started lives "
        "on until the turn is over; (n missing) counts what had not started "
        f"{LATE_SECONDS:.0f} s after its instant"
    )
    yield Remark(
        "the bare loop is Python that sleeps until the instant and calls os.posix_spawn; "
        "supervisord and circus have no instants: a client that sleeps sends one request each; "
        "APScheduler holds its jobs in memory; only geosched has written down that it starts"
    )
    yield from _goals({name: of for name, of in late.items() if name not in missing}, size)


# --- one turn ---------------------------------------------------------------------------


def _turn(contender: Callable[[Groups], object], size: Size, late: dict[int, list[float]]) -> None:
    with tempfile.TemporaryDirectory(prefix="gs-bench-", dir="/tmp") as place, ExitStack() as stack:
        stamps, program = Path(place, "stamps"), str(build_stamp(Path(place)))
        groups = size.groups(lambda name: [program, str(stamps), str(LIFE_SECONDS), name])
        stack.callback(end_stamps, stamps)  # after the contender is gone
        give: Give = stack.enter_context(contender(groups))  # type: ignore[arg-type]
        instants = size.instants()
        give(instants)
        if time.time_ns() > instants[0] - 500_000_000:
            raise PeerError("did not take its plan in time")
        due = {
            name: (at, len(group))
            for at, group in zip(instants, groups, strict=True)
            for name in group
        }
        _wait_for_stamps(stamps, len(due), instants[-1] / 1e9 + LATE_SECONDS)
        for name, at_ns in read_stamps(stamps):
            at, count = due[name]
            late.setdefault(count, []).append((at_ns - at) / 1e6)


def _wait_for_stamps(stamps: Path, count: int, until: float) -> None:
    while len(read_stamps(stamps)) < count and time.time() < until:
        time.sleep(0.25)


@contextmanager
def _daemon(groups: Groups) -> Iterator[Give]:
    command = [*next(iter(groups[0].values()))[:3], "{id}"]
    count = sum(len(group) for group in groups)
    with daemon_installation() as daemon, ExitStack() as stack:
        daemon.configure(
            scripts={"default": {"command": command}},
            backend={"poll_interval": "60s"},
            max_running=count,
        )
        stack.callback(kill_all, daemon)
        daemon.start()

        def give(instants: list[int]) -> None:
            daemon.send(
                [
                    entry(name, 0, 3600, fromDate=_text(at))
                    for at, group in zip(instants, groups, strict=True)
                    for name in group
                ]
            )
            daemon.json("sync")
            wait_for(lambda: daemon.json("status")["counts"]["NULL"] == count, what="the plan")

        yield give


def _text(at_ns: int) -> str:
    return datetime.fromtimestamp(at_ns // 1_000_000 / 1e3, UTC).isoformat(timespec="milliseconds")


# --- what comes of it -------------------------------------------------------------------


def p99(values: list[float]) -> float:
    """By nearest rank: a value that was measured."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def _tables(late: Late, missing: dict[str, str], size: Size) -> Iterator[Table]:
    counts = (1, *size.bursts)
    head = ("ms late: median / p99 / most", *map(_at_one_instant, counts))
    rows = []
    for name, of in late.items():
        cells = (_cell(of.get(count, []), count, size) for count in counts)
        absent = ("not measured", *[""] * (len(counts) - 1))
        rows.append((name, *(absent if name in missing else cells)))
    yield Table("How late commands start", head, tuple(rows))


def _at_one_instant(count: int) -> str:
    return "one" if count == 1 else f"{count} at one instant"


def _cell(values: list[float], count: int, size: Size) -> str:
    planned = size.rounds * (size.singles if count == 1 else count)
    gone = f" ({planned - len(values)} missing)" if len(values) < planned else ""
    if not values:
        return "none started"
    return f"{statistics.median(values):.1f} / {p99(values):.1f} / {max(values):.1f}{gone}"


def _goals(late: Late, size: Size) -> Iterator[Line]:
    ours, bare = late.get(OURS), late.get(BARE.name)
    if ours is None or bare is None:
        return
    median = statistics.median
    peers = {name: of for name, of in late.items() if name not in (OURS, BARE.name)}
    yield Figure("one: median", median(ours[1]), "ms", 3)
    yield Figure("one: median / that of the bare loop", median(ours[1]) / median(bare[1]), "x", 2)
    yield from _ahead("one: median", median, 1, ours, peers)
    for count, goal in ((100, 1.25), (500, 2.0)):
        if count in size.bursts:
            ratio = p99(ours[count]) / p99(bare[count])
            yield Figure(f"{count} at one instant: p99 / that of the bare loop", ratio, "x", goal)
    yield from _ahead("100 at one instant: p99", p99, 100, ours, peers)


def _ahead(
    what: str,
    measure: Callable[[list[float]], float],
    count: int,
    ours: dict[int, list[float]],
    peers: dict[str, dict[int, list[float]]],
) -> Iterator[Figure]:
    values = {name: measure(of[count]) for name, of in peers.items() if of.get(count)}
    if values:
        best = min(values, key=values.__getitem__)
        ratio = measure(ours[count]) / values[best]
        yield Figure(f"{what} / that of the best peer ({best})", ratio, "x", 1)
