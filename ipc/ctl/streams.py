"""The verbs whose answer may go on: `logs` and `events`, with or without `-f`."""

import sys
import time
from collections.abc import Iterator

import click

from ..client import Client
from ..messages.control import LOG_CHUNK_BYTES_MAX, EventsAre, LogChunk, ReadEvents, ReadLog
from ..messages.views import EventView
from . import words
from .options import Output, Verb, connect, output_of
from .printing import complain, now_us, show_document, show_line, show_sheet, write
from .verbs import fields, possible_id

#: How long the daemon holds an answer to `ReadEvents(wait=True)` back, see `control.py`.
EVENTS_WAIT_SECONDS = 10.0
POLL_SECONDS = 0.3


# --- logs ----------------------------------------------------------------------------------


@click.command(cls=Verb)
@click.argument("id_", metavar="ID", callback=possible_id)
@click.option(
    "--run", "attempt", type=click.IntRange(1, 2**31), metavar="N", help="Of the N-th attempt."
)
@click.option("-n", "lines", type=click.IntRange(0, 2**31), metavar="LINES", help="Only the last.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@click.pass_context
def logs(
    ctx: click.Context, id_: str, attempt: int | None, lines: int | None, follow: bool
) -> None:
    """Show the output of an action's latest run, byte for byte."""
    output = output_of(ctx)
    if follow and output is not Output.TABLE:
        raise click.UsageError(f"cannot follow with -o {output}: output is no document", ctx)
    with connect(ctx) as client:
        log = Log(client, id_, attempt or 0)
        if output is not Output.TABLE:
            text = log.so_far(lines).decode(errors="replace")
            document = {"runId": log.run_id, "attempt": log.attempt, "output": text}
            show_document({**document, "ended": log.ended}, output)
            return
        if lines is not None:
            write(log.so_far(lines))
        if follow or lines is None:
            for data in log.rest(follow=follow):
                write(data)


class Log:
    """The output of one run, read piece by piece."""

    def __init__(self, client: Client, action_id: str, attempt: int) -> None:
        """`attempt` 0 is the newest run; it stays that run when a newer one begins."""
        self._client = client
        self._action_id = action_id
        self.attempt = attempt
        self.run_id = ""
        self.ended = False
        self._offset = 0

    def so_far(self, lines: int | None) -> bytes:
        """All there is by now, or the last `lines` of it."""
        if lines is None:
            return b"".join(self.rest())
        back = LOG_CHUNK_BYTES_MAX
        earliest = sys.maxsize
        while True:
            first = self._read(-back)
            data = first.data + b"".join(self.rest())
            whole = first.offset == 0 or first.offset >= earliest
            if whole or data.count(b"\n") > lines:
                return last_lines(data, lines)
            earliest = first.offset
            back *= 4

    def rest(self, *, follow: bool = False) -> Iterator[bytes]:
        """What comes after that which has been read; with `follow`, until the run ends."""
        while not self.ended:
            data = self._read(self._offset).data
            if data:
                yield data
            elif not follow:
                return
            elif not self.ended:
                time.sleep(POLL_SECONDS)

    def _read(self, offset: int) -> LogChunk:
        chunk = self._client.ask(ReadLog(self._action_id, self.attempt, offset), LogChunk)
        self.run_id, self.attempt, self.ended = chunk.run_id, chunk.attempt, chunk.ended
        self._offset = chunk.offset + len(chunk.data)
        return chunk


def last_lines(data: bytes, lines: int) -> bytes:
    """The last `lines` lines; one without its end mark counts."""
    if not lines:
        return b""
    ends = lines + data.endswith(b"\n")
    return b"\n".join(data.split(b"\n")[-ends:])


# --- events --------------------------------------------------------------------------------


@click.command(cls=Verb)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens from now on.")
@click.pass_context
def events(ctx: click.Context, follow: bool) -> None:
    """Show the last 100 changes of status."""
    output = output_of(ctx)
    if follow and output is Output.JSON:
        raise click.UsageError("cannot follow with -o json, but with -o jsonl", ctx)
    with connect(ctx) as client:
        latest = client.ask(ReadEvents(), EventsAre).events
        if output is Output.JSON:
            show_document({"events": [fields(event) for event in latest]}, output)
            return
        _show_events(latest, output, titled=True)
        last = latest[-1].seq if latest else 0
        while follow:
            newer = client.ask(
                ReadEvents(last, wait=True), EventsAre, daemon_waits_seconds=EVENTS_WAIT_SECONDS
            ).events
            if not newer:
                # A daemon with too many who wait answers at once: do not spin on it.
                time.sleep(POLL_SECONDS)
                continue
            _mention_missed(last, newer[0].seq)
            _show_events(newer, output, titled=False)
            last = newer[-1].seq


def _show_events(found: tuple[EventView, ...], output: Output, *, titled: bool) -> None:
    if output is Output.TABLE:
        show_sheet([words.events_table(found, now_us(), titled=titled)])
        return
    for event in found:
        show_line(event)


def _mention_missed(last: int, following: int) -> None:
    missed = following - last - 1
    if last and missed > 0:
        complain(f"{missed} events missed: they came faster than they were read")
