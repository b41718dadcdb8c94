"""The verb `events`, and its table; with `-f` it goes on with new events."""

import time
from collections.abc import Iterable

import click

from ...messages.control import EVENTS_WAIT_SECONDS, EventsAre, ReadEvents
from ...messages.views import EventView
from ..options import OutputFormat, Verb, connect, output_of
from ..printing import complain, fields, now_us, show_document, show_line, show_sheet
from ..table import Column, Table
from ..words import clean, short_time, why

#: The pause before the next request: a daemon with too many waiting clients answers at once.
PAUSE_SECONDS = 0.3
COLUMNS = (
    Column("SEQ", spared=2),
    Column("AT (UTC)"),
    Column("ID", 12, cut_middle=True),
    Column("CHANGE", 12, cut_start=True),
    Column("WHY", 8, spared=1),
)
#: Wide enough for most events, so that rows printed one by one are aligned.
WIDTHS = (5, 14, 18, 22, 0)


@click.command(cls=Verb)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on.")
@click.pass_context
def command(ctx: click.Context, follow: bool) -> None:
    """Show the last 100 changes of status."""
    output = output_of(ctx)
    if follow and output is OutputFormat.JSON:
        raise click.UsageError("cannot follow with -o json, but with -o jsonl", ctx)
    with connect(ctx) as client:
        latest = client.ask(ReadEvents(), EventsAre).events
        if output is OutputFormat.JSON:
            show_document({"events": [fields(event) for event in latest]}, output)
            return
        _show_events(latest, output, titled=True)
        last = latest[-1].seq if latest else 0
        while follow:
            newer = client.ask(
                ReadEvents(last, wait=True), EventsAre, daemon_waits_seconds=EVENTS_WAIT_SECONDS
            ).events
            if not newer:
                time.sleep(PAUSE_SECONDS)
                continue
            _mention_missed(last, newer[0].seq)
            _show_events(newer, output, titled=False)
            last = newer[-1].seq


def _show_events(found: tuple[EventView, ...], output: OutputFormat, *, titled: bool) -> None:
    if output is OutputFormat.TABLE:
        show_sheet([events_table(found, now_us(), titled=titled)])
        return
    for event in found:
        show_line(event)


def _mention_missed(last: int, following: int) -> None:
    missed = following - last - 1
    if last and missed > 0:
        complain(f"{missed} events missed: they came faster than they were read")


def events_table(events: Iterable[EventView], now_us: int, *, titled: bool = True) -> Table:
    rows = tuple(
        (
            str(event.seq),
            short_time(event.at, now_us, seconds=True),
            clean(event.id),
            f"{event.from_ or 'NULL'} -> {event.to or 'NULL'}",
            why(event.reason, ""),
        )
        for event in events
    )
    return Table(COLUMNS, rows, WIDTHS, titled)
