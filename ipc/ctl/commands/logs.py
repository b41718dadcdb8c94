"""The verb `logs`: the output of a run, read in chunks and, with `-f`, to its end."""

import codecs
import sys
import time
from collections.abc import Iterator

import click

from ...client import Client
from ...foreign_text import visible
from ...messages.control import LOG_CHUNK_BYTES_MAX, LogChunk, ReadLog
from ..options import OutputFormat, Verb, connect, output_of, possible_id
from ..printing import complain, show_document, write

#: The interval at which a run that writes nothing is asked again.
POLL_SECONDS = 0.3


@click.command(cls=Verb)
@click.argument("id_", metavar="ID", callback=possible_id)
@click.option(
    "--run", "attempt", type=click.IntRange(1, 2**31), metavar="N", help="Of the N-th attempt."
)
@click.option("-n", "lines", type=click.IntRange(0, 2**31), metavar="LINES", help="Only the last.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@click.option("--raw", is_flag=True, help="To a terminal, too, byte for byte.")
@click.pass_context
def command(
    ctx: click.Context, id_: str, attempt: int | None, lines: int | None, follow: bool, raw: bool
) -> None:
    """Show the output of an action's latest run: byte for byte, but to a terminal with escapes
    for control characters."""
    output = output_of(ctx)
    if follow and output is not OutputFormat.TABLE:
        raise click.UsageError(f"cannot follow with -o {output}: output is no document", ctx)
    with connect(ctx) as client:
        log = Log(client, id_, attempt or 0)
        if output is not OutputFormat.TABLE:
            text = log.so_far(lines).decode(errors="replace")
            document = {"runId": log.run_id, "attempt": log.attempt, "output": text}
            show_document({**document, "ended": log.ended}, output)
            return
        shown = write if raw or not sys.stdout.isatty() else _Visible().write
        if lines is not None:
            shown(log.so_far(lines))
        if follow or lines is None:
            for data in log.rest(follow=follow):
                shown(data)
        if log.is_empty:
            complain(f"run {log.attempt} has printed nothing{'' if log.ended else ' yet'}")


class _Visible:
    """Output on a terminal: a script cannot move its cursor or change what it shows."""

    def __init__(self) -> None:
        # A character may come in two chunks.
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    def write(self, data: bytes) -> None:
        text = self._decoder.decode(data).replace("\r\n", "\n")
        write(visible(text, keep="\n\t").encode())


class Log:
    """The output of one run, read in chunks."""

    def __init__(self, client: Client, action_id: str, attempt: int) -> None:
        """`attempt` 0 means the newest run, and stays that run when a newer one begins."""
        self._client = client
        self._action_id = action_id
        self.attempt = attempt
        self.run_id = ""
        self.ended = False
        self.is_empty = True  # as far as it was read
        self._offset = 0

    def so_far(self, lines: int | None) -> bytes:
        """Return all the output there is by now, or its last `lines` lines."""
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
        """Yield the output that has not been read yet; with `follow`, until the run ends."""
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
        self.is_empty = self.is_empty and not self._offset
        return chunk


def last_lines(data: bytes, lines: int) -> bytes:
    """Return the last `lines` lines; one that does not end in a line feed counts."""
    if not lines:
        return b""
    ends = lines + data.endswith(b"\n")
    return b"\n".join(data.split(b"\n")[-ends:])
