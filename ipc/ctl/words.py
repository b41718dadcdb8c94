"""What a person is shown of an answer: views in, tables and blocks of clean text out.

Pure: the current time is an argument, widths are `table.py`'s, colours `output.py`'s.
Ids and details came from outside, so nothing here lets a control character through.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from ..instants import SECOND_US, parse_instant
from ..messages.views import (
    ActionView,
    BackendView,
    EventView,
    RunView,
    StatusView,
    StoreView,
    SyncView,
)
from .table import Block, Column, Sheet, Table

NOTHING = "-"
#: A database that is fuller than that wants a person's attention.
FULL_SHARE = 0.8
#: Beyond this distance an instant is shown by its year, and not by its time.
NEAR_US = 180 * 86_400 * SECOND_US


LIST_COLUMNS = (
    Column("ID", 12, cut_middle=True),
    Column("FROM (UTC)"),
    Column("TO (UTC)"),
    Column("PHASE"),
    Column("STATUS"),
    Column("WHY", 8),
)
RUN_COLUMNS = (
    Column("RUN"),
    Column("STARTED (UTC)"),
    Column("ENDED (UTC)"),
    Column("RESULT"),
    Column("PIDS"),
    Column("WHY", 8),
)
EVENT_COLUMNS = (
    Column("SEQ"),
    Column("AT (UTC)"),
    Column("ID", 12, cut_middle=True),
    Column("CHANGE"),
    Column("WHY", 8),
)
#: Those of most events, so that lines that come one by one stand below each other.
EVENT_WIDTHS = (5, 14, 18, 22, 0)


# --- what is shown -----------------------------------------------------------------------


def actions_table(actions: Iterable[ActionView], now_us: int) -> Table:
    rows = tuple(
        (
            clean(action.id),
            short_time(action.from_date, now_us),
            short_time(action.to_date, now_us),
            clean(action.phase),
            action.execution_status or "NULL",
            _why(action.reason, action.detail),
        )
        for action in actions
    )
    return Table(LIST_COLUMNS, rows)


def action_sheet(action: ActionView, runs: Sequence[RunView], now_us: int) -> Sheet:
    length = _span_between(action.from_date, action.to_date)
    pairs = [
        ("id", clean(action.id)),
        ("from", f"{full_time(action.from_date)}, {_from_now(action.from_date, now_us)}"),
        ("to", f"{full_time(action.to_date)}, {_from_now(action.to_date, now_us)}"),
        ("length", length),
        ("status", f"{action.execution_status or 'NULL'} ({clean(action.phase)})"),
        ("why", _why(action.reason, action.detail)),
        ("wanted", _yes(action.wanted) + _unless_same(action)),
        ("type", clean(action.type)),
        ("apps", clean(", ".join(action.app_names)) or NOTHING),
        ("attempt", str(action.attempt)),
    ]
    script_says = action.run.status_text if action.run else ""
    if script_says:
        pairs.append(("script says", clean(script_says)))
    block = Block(tuple(pairs))
    return [block, runs_table(runs, now_us)] if runs else [block]


def runs_table(runs: Iterable[RunView], now_us: int) -> Table:
    rows = tuple(
        (
            str(run.attempt),
            short_time(run.started_at, now_us),
            short_time(run.ended_at, now_us),
            _result(run),
            f"{run.worker_pid or NOTHING} {run.script_pid or NOTHING}",
            _why(run.reason, run.detail),
        )
        for run in runs
    )
    return Table(RUN_COLUMNS, rows)


def events_table(events: Iterable[EventView], now_us: int, *, titled: bool = True) -> Table:
    rows = tuple(
        (
            str(event.seq),
            short_time(event.at, now_us, seconds=True),
            clean(event.id),
            f"{event.from_ or 'NULL'} -> {event.to or 'NULL'}",
            _why(event.reason, ""),
        )
        for event in events
    )
    return Table(EVENT_COLUMNS, rows, EVENT_WIDTHS, titled)


def status_sheet(status: StatusView, now_us: int) -> Sheet:
    daemon = status.daemon
    up = span(daemon.uptime_seconds)
    counts = ", ".join(f"{count} {name}" for name, count in status.counts.items() if count)
    trust = "trusted" if status.clock.trusted else "untrusted: nothing starts or ends by it"
    pairs = [
        ("geoschedd", f"{clean(daemon.version)}, process {daemon.pid}, up {up}"),
        ("actions", clean(counts) or "none"),
        ("runs", f"{status.running} running, {status.queued} queued"),
        ("next edge", _next_edge(status.next_edge, now_us)),
        ("backend", backend_line(status.backend, now_us)),
        ("reports", _outbox(status, now_us)),
        ("clock", _with_detail(trust, status.clock.detail)),
        ("database", _store(status.store, now_us)),
        ("containment", clean(status.containment)),
    ]
    pairs.extend(("ATTENTION", clean(trouble)) for trouble in troubles(status))
    return [Block(tuple(pairs))]


def troubles(status: StatusView) -> list[str]:
    """What an operator has to know of and would not look for."""
    backend, outbox, store = status.backend, status.outbox, status.store
    found = [
        (status.daemon.shutting_down, "the daemon is shutting down"),
        (status.daemon.degraded, f"daemonDB cannot be written: {status.daemon.degraded}"),
        (store.backup_error, f"no backup could be made: {store.backup_error}"),
        (store.damaged_values, f"{store.damaged_values} values of daemonDB are damaged"),
        (_fills(store), f"daemonDB is {100 * store.used_bytes // store.map_bytes} % full"),
        (status.stuck, f"{status.stuck} stuck: killed, and not gone"),
        (backend.quarantined, f"{backend.quarantined} entries of the backend set aside"),
        (backend.last_report_error, f"reports are not taken: {backend.last_report_error}"),
        (outbox.dropped, f"{outbox.dropped} reports dropped, the outbox was full"),
        (
            outbox.refused,
            f"{outbox.refused} reports refused: see `outbox list`",
        ),
        (status.output_lost_bytes, f"{status.output_lost_bytes} bytes of output lost"),
    ]
    happened = [f"daemonDB, {one.at[:16]}: {one.detail}" for one in store.incidents]
    if happened:
        happened.append("  (`geosched-ctl db acknowledge` says that you have seen this)")
    told = [text for holds, text in found if holds]
    return told + happened + [f"  {one}" for one in backend.quarantine]


def sync_sheet(result: SyncView) -> Sheet:
    return [
        Block(
            (
                ("added", str(result.added)),
                ("updated", str(result.updated)),
                ("withdrawn", str(result.withdrawn)),
                ("unchanged", str(result.unchanged)),
                ("quarantined", str(result.quarantined)),
                ("reported", str(result.reported)),
            )
        )
    ]


# --- the database ------------------------------------------------------------------------

SheetOf: TypeAlias = Callable[[dict[str, Any]], Sheet]
TABLE_COLUMNS = (Column("TABLE"), Column("ROWS"), Column("SIZE"), Column("OLDEST"))


def db_stats_sheet(found: dict[str, Any]) -> Sheet:
    used, room = found["usedBytes"], found["mapBytes"]
    pairs = (
        ("database", clean(found["directory"])),
        ("format", f"{found['format']}, generation {clean(str(found['generation']))}"),
        ("used", f"{size(used)} of {size(room)} ({100 * used / room:.0f} %)"),
        ("free", f"{size(found['freeBytes'])} to be used again"),
        ("on disk", f"{size(found['allocatedBytes'])}"),
        ("written", f"{found['lastTransaction']} transactions"),
    )
    rows = tuple(
        (
            clean(name),
            str(table["rows"]),
            size(table["bytes"]),
            clean(found["oldest"].get(name) or NOTHING),
        )
        for name, table in found["tables"].items()
    )
    return [Block(pairs), Table(TABLE_COLUMNS, rows)]


def db_check_sheet(found: dict[str, Any]) -> Sheet:
    pairs = [("database", "good" if found["good"] else clean(found["condition"]))]
    if found["detail"]:
        pairs.append(("ATTENTION", clean(found["detail"])))
    damaged = [f"damaged: {row['table']} {row['key']}" for row in found["damaged"]]
    pairs.extend(("ATTENTION", clean(fault)) for fault in (*damaged, *found["faults"]))
    return [Block(tuple(pairs))]


def plain_sheet(found: dict[str, Any]) -> Sheet:
    """Names and values as they are."""
    return [Block(tuple((name, clean(str(value))) for name, value in found.items()))]


def acknowledged_sheet(found: dict[str, Any]) -> Sheet:
    seen = [("seen", clean(f"{each['at']} {each['detail']}")) for each in found["acknowledged"]]
    return [Block(tuple(seen or [("seen", "nothing")]))]


def size(count: int) -> str:
    """Bytes in the unit that shows them best: `4.3 MiB`."""
    value, unit = float(count), 0
    while round(value, 1) >= 1024 and unit < len(_SIZES) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_SIZES[unit]}" if unit else f"{count} B"


_SIZES = ("B", "KiB", "MiB", "GiB")


def backend_line(backend: BackendView, now_us: int) -> str:
    kind = clean(backend.kind)
    if backend.last_pull_ok is None:
        return f"not pulled yet ({kind})"
    if backend.last_pull_ok:
        due = backend.next_pull_in_seconds
        following = "" if due is None else f", next in {span(due)}"
        return f"ok ({kind}), pulled {_from_now(backend.last_pull_at, now_us)}{following}"
    good = backend.last_success_at
    since = f"since {full_time(good)}, {_from_now(good, now_us)}" if good else "from the start"
    return _with_detail(f"failing ({kind}) {since}", backend.last_error or "")


# --- words, times, spans -----------------------------------------------------------------


def clean(text: str) -> str:
    """Text that cannot move a cursor, hide, turn round or end a line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def short_time(instant: str | None, now_us: int, *, seconds: bool = False) -> str:
    """`11-23 08:00`, with seconds where there are any; only the date where that is far."""
    if instant is None:
        return NOTHING
    if abs(parse_instant(instant) - now_us) > NEAR_US:
        return instant[:10]
    whole_minute = instant[17:19] == "00" and not seconds
    return f"{instant[5:10]} {instant[11:16] if whole_minute else instant[11:19]}"


def full_time(instant: str) -> str:
    return f"{instant[:10]} {instant[11:19]} UTC"


def span(seconds: float) -> str:
    """A duration in its two largest units: `3 m 20 s`."""
    left = max(0, round(seconds))
    for (unit, size), (lesser, lesser_size) in itertools.pairwise(_UNITS):
        if left >= size:
            count, rest = divmod(left, size)
            more = rest // lesser_size
            return f"{count} {unit} {more} {lesser}" if more else f"{count} {unit}"
    return f"{left} s"


_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


def _from_now(instant: str | None, now_us: int) -> str:
    if instant is None:
        return NOTHING
    seconds = (parse_instant(instant) - now_us) / SECOND_US
    return f"in {span(seconds)}" if seconds > 0 else f"{span(-seconds)} ago"


def _next_edge(instant: str | None, now_us: int) -> str:
    if instant is None:
        return "none"
    return f"{_from_now(instant, now_us)}, at {full_time(instant)}"


def _span_between(begin: str, end: str) -> str:
    return span((parse_instant(end) - parse_instant(begin)) / SECOND_US)


def _store(store: StoreView, now_us: int) -> str:
    copied = _from_now(store.last_backup_at, now_us) if store.last_backup_at else "never"
    used = f"{size(store.used_bytes)} of {size(store.map_bytes)}"
    return f"{clean(store.state)}, {used} on {clean(store.file_system)}, backed up {copied}"


def _fills(store: StoreView) -> bool:
    return store.used_bytes > FULL_SHARE * store.map_bytes


def _outbox(status: StatusView, now_us: int) -> str:
    outbox = status.outbox
    if not outbox.depth:
        return "none waiting"
    return f"{outbox.depth} waiting, the oldest of {_from_now(outbox.oldest_at, now_us)}"


def _why(reason: str | None, detail: str) -> str:
    if reason is None:
        return clean(detail) or NOTHING
    return _with_detail(clean(reason), detail)


def _with_detail(text: str, detail: str) -> str:
    return f"{text}: {clean(detail)}" if detail else text


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def _unless_same(action: ActionView) -> str:
    """Say so where the backend's word alone does not explain what is wanted."""
    if action.should_be_executed == action.wanted:
        return ""
    return f" (shouldBeExecuted: {_yes(action.should_be_executed)})"


def _result(run: RunView) -> str:
    if run.signal:
        return clean(run.signal)
    if run.exit_code is not None:
        return f"exit {run.exit_code}"
    return NOTHING if run.ended_at else "running"
