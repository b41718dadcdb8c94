"""The verb `status`, and its sheet: the daemon, its backend, its clock and its database."""

import click

from ...messages.base import IMMORTAL_HEAP_ON
from ...messages.control import GetStatus, StatusIs
from ...messages.views import (
    REASONS_JOINED_BY,
    STORE_OK,
    STORE_REMOVED,
    STORE_REMOVED_WORDS,
    BackendView,
    LimitsView,
    StatusView,
    StoreView,
)
from ..options import Verb, connect
from ..printing import fields, now_us, show
from ..table import Block, Sheet
from ..words import clean, from_now, full_time, size, span, with_detail

#: A database that is fuller than this share is worth an operator's attention.
FULL_SHARE = 0.8

_REMOVED = (
    "the files of daemonDB were removed or replaced: what the daemon learns is lost when it ends."
    " Stop it, let `db restore` bring a backup back, and start it (without a backup it begins anew)"
)


@click.command(cls=Verb)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Show how the daemon, its backend and its clock are."""
    with connect(ctx) as client:
        found = client.ask(GetStatus(), StatusIs).status
    show(ctx, fields(found), status_sheet(found, now_us()))


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
        *_synchroniser(status.backend),
        ("reports", _outbox(status, now_us)),
        ("clock", with_detail(trust, status.clock.detail)),
        ("database", _store(status.store, now_us)),
        ("containment", clean(status.containment)),
        *_heap(status.immortal_heap),
    ]
    pairs.extend(("ATTENTION", clean(trouble)) for trouble in troubles(status))
    return [Block(tuple(pairs))]


def troubles(status: StatusView) -> list[str]:
    """Return what an operator must know and would not look for, one line each."""
    backend, outbox, store = status.backend, status.outbox, status.store
    limits, operators = status.limits, status.operators
    degraded = _degraded(status)
    found = [
        (status.daemon.shutting_down, "the daemon is shutting down"),
        (degraded, f"degraded: {degraded}"),
        (
            store.state not in (STORE_OK, STORE_REMOVED),
            f"daemonDB cannot be written: {store.state}",
        ),
        (store.state == STORE_REMOVED, _REMOVED),
        (limits.max_running_asked, _cut(limits)),
        (
            operators.pending,
            "operators who may only look until they are looked up: " + ", ".join(operators.pending),
        ),
        (
            operators.unknown,
            f"operators that are no users of this host: {', '.join(operators.unknown)}",
        ),
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
    told = [*backend.warnings, *(text for holds, text in found if holds)]
    return told + happened + [f"  {one}" for one in backend.quarantine]


def _degraded(status: StatusView) -> str:
    """Return the reasons for which the daemon is degraded, without that of a removed database,
    which has a line of its own."""
    reasons = (status.daemon.degraded or "").split(REASONS_JOINED_BY)
    if status.store.state == STORE_REMOVED:
        reasons = [reason for reason in reasons if reason != STORE_REMOVED_WORDS]
    return REASONS_JOINED_BY.join(reasons)


def _cut(limits: LimitsView) -> str:
    return (
        f"max_running is {limits.max_running}, not {limits.max_running_asked}:"
        f" no more fit into {limits.open_files} open files (ulimit -Hn)"
    )


def backend_line(backend: BackendView, now_us: int) -> str:
    kind = clean(backend.kind)
    if backend.last_pull_ok is None:
        return f"not pulled yet ({kind})"
    if backend.last_pull_ok:
        due = backend.next_pull_in_seconds
        following = "" if due is None else f", next in {span(due)}"
        return f"ok ({kind}), pulled {from_now(backend.last_pull_at, now_us)}{following}"
    good = backend.last_success_at
    since = f"since {full_time(good)}, {from_now(good, now_us)}" if good else "from the start"
    return with_detail(f"failing ({kind}) {since}", backend.last_error or "")


def _synchroniser(backend: BackendView) -> list[tuple[str, str]]:
    return [("exchanges", f"as user {clean(backend.user)}")] if backend.user else []


def _heap(state: str) -> list[tuple[str, str]]:
    """A line where each worker counts the references of all that the zygote imported."""
    return [] if state in ("", IMMORTAL_HEAP_ON) else [("immortal", clean(state))]


def _next_edge(instant: str | None, now_us: int) -> str:
    if instant is None:
        return "none"
    return f"{from_now(instant, now_us)}, at {full_time(instant)}"


def _store(store: StoreView, now_us: int) -> str:
    copied = from_now(store.last_backup_at, now_us) if store.last_backup_at else "never"
    used = f"{size(store.used_bytes)} of {size(store.map_bytes)}"
    return f"{clean(store.state)}, {used} on {clean(store.file_system)}, backed up {copied}"


def _fills(store: StoreView) -> bool:
    return store.used_bytes > FULL_SHARE * store.map_bytes


def _outbox(status: StatusView, now_us: int) -> str:
    outbox = status.outbox
    if not outbox.depth:
        return "none waiting"
    return f"{outbox.depth} waiting, the oldest of {from_now(outbox.oldest_at, now_us)}"
