"""The verbs `outbox list`, `flush` and `drop`: reports that the backend has not taken."""

from collections.abc import Iterable, Iterator

import click

from ...client import BadAnswerError, Client
from ...messages.control import Dropped, DropReports, Flushed, FlushReports, ListReports, ReportsAre
from ...messages.views import ReportView
from ..exits import VerbFailedError
from ..options import OutputFormat, Verb, connect, output_of
from ..printing import fields, now_us, show, show_line
from ..table import Block, Column, Table
from ..words import clean, short_time

COLUMNS = (
    Column("KEY", spared=1),
    Column("AT (UTC)"),
    Column("ID", 12, cut_middle=True),
    Column("STATUS"),
    Column("REFUSED", spared=2),
)


@click.group()
def command() -> None:
    """Look at the reports that the backend has not taken; send or drop those it refuses."""


@command.command("list", cls=Verb)
@click.pass_context
def list_(ctx: click.Context) -> None:
    """List reports that are pending, and those set aside after ten refusals."""
    with connect(ctx) as client:
        pending = list(_pages(client, set_aside=False))
        refused = list(_pages(client, set_aside=True))
    if output_of(ctx) is OutputFormat.JSONL:
        for report in (*pending, *refused):
            show_line(report)
        return
    document = {
        "pending": [fields(report) for report in pending],
        "refused": [fields(report) for report in refused],
    }
    show(ctx, document, [_table((*pending, *refused), now_us())])


def _table(reports: Iterable[ReportView], now: int) -> Table:
    rows = tuple(
        (
            clean(report.key),
            short_time(report.at, now, seconds=True),
            clean(report.id),
            report.execution_status or "NULL",
            f"{report.refusals} times{', set aside' if report.set_aside else ''}",
        )
        for report in reports
    )
    return Table(COLUMNS, rows)


def _pages(client: Client, *, set_aside: bool) -> Iterator[ReportView]:
    cursor = 0
    while True:
        page = client.ask(ListReports(set_aside, cursor), ReportsAre)
        yield from page.reports
        if not page.cursor:
            return
        if page.cursor <= cursor:
            raise BadAnswerError("cannot list the reports: the daemon repeats a page")
        cursor = page.cursor


@command.command(cls=Verb)
@click.pass_context
def flush(ctx: click.Context) -> None:
    """Report now, those that were set aside once more too."""
    with connect(ctx) as client:
        done = client.ask(FlushReports(), Flushed)
    pairs = (("flushed", str(done.flushed)), ("reported", str(done.reported)))
    show(ctx, {"flushed": done.flushed, "reported": done.reported}, [Block(pairs)])
    if done.error is not None:
        raise VerbFailedError(done.error)


def _possible_keys(
    ctx: click.Context, param: click.Parameter, keys: tuple[str, ...]
) -> tuple[str, ...]:
    if not all(key.isascii() for key in keys):
        raise click.BadParameter("a report's key is ASCII", ctx, param)
    return keys


@command.command(cls=Verb)
@click.argument("keys", metavar="[KEY]...", nargs=-1, callback=_possible_keys)
@click.option("--refused", is_flag=True, help="All that were set aside.")
@click.pass_context
def drop(ctx: click.Context, keys: tuple[str, ...], refused: bool) -> None:
    """Forget reports that were set aside: the backend will never get them."""
    if bool(keys) is refused:
        raise click.UsageError("name the keys to drop, or say --refused for all", ctx)
    with connect(ctx) as client:
        dropped = client.ask(DropReports(keys), Dropped).dropped
    show(ctx, {"dropped": dropped}, [Block((("dropped", str(dropped)),))])
