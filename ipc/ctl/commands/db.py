"""The verbs `db …`: the database itself, with their sheets.

All but `acknowledge` work on its files, in a process of their own, with or without a
daemon: so the caller needs the rights to the files, and a path of the caller's never
reaches the daemon. This module starts that process and shows its result.
"""

import re
import sys
from collections import deque
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec

from ...decoding import DECODE_ERRORS
from ...messages.control import Acknowledged, AcknowledgeIncidents
from ...paths import state_dir
from ...signals import signal_name
from ...standard_streams import give_up, reader_left
from ..exits import Exit, VerbFailedError
from ..options import Verb, connect, from_config
from ..printing import fields, show, write
from ..table import Block, Column, Sheet, Table
from ..tool import COMPLAINTS_MAX, Show, Tool
from ..words import NOTHING, clean, size

_TOOL = "geosched.supervisor.store.tools.cli"
ANSWER_BYTES_MAX = 16 * 1024**2
_PROGRESS = re.compile("progress ([0-9]{1,9}) ([0-9]{1,9})")
#: Exit codes of the tool that are this command's own too. CONFLICT: a daemon runs.
_SHARED_EXITS = (Exit.FAILED, Exit.NOT_PERMITTED, Exit.CONFLICT, Exit.INTERRUPTED)

TABLE_COLUMNS = (Column("TABLE"), Column("ROWS"), Column("SIZE"), Column("OLDEST"))


@click.group()
def command() -> None:
    """Look at the database, check it, back it up, restore it."""


@command.command(cls=Verb)
@click.pass_context
def stats(ctx: click.Context) -> None:
    """Show sizes, counts, free space and the oldest rows."""
    found = _asked(ctx, "stats")
    show(ctx, found, db_stats_sheet(found))


@command.command(cls=Verb)
@click.pass_context
def check(ctx: click.Context) -> None:
    """Look for damage and contradictions; exit 1 if there are any."""
    found = _asked(ctx, "check")
    show(ctx, found, db_check_sheet(found))
    if not found["good"]:
        raise VerbFailedError("the database is not as it should be")


@command.command(cls=Verb)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.pass_context
def backup(ctx: click.Context, directory: Path) -> None:
    """Copy it to DIR/data.mdb, verified. The daemon may go on."""
    found = _asked(ctx, "backup", directory.absolute())
    show(ctx, found, plain_sheet(found))


@command.command(cls=Verb)
@click.pass_context
def export(ctx: click.Context) -> None:
    """Print every row as a line of JSON."""
    _copied(ctx)


@command.command(cls=Verb)
@click.pass_context
def compact(ctx: click.Context) -> None:
    """Write it anew without free space. The daemon has to be stopped."""
    found = _asked(ctx, "compact")
    show(ctx, found, plain_sheet(found))


@command.command(cls=Verb)
@click.argument(
    "directory", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.pass_context
def restore(ctx: click.Context, directory: Path) -> None:
    """Take the backup in DIR. The daemon has to be stopped; the database that is there is
    set aside."""
    found = _asked(ctx, "restore", directory.absolute())
    show(ctx, found, plain_sheet(found))


@command.command(cls=Verb)
@click.pass_context
def acknowledge(ctx: click.Context) -> None:
    """Say that you have seen what happened to it: `status` is silent about it then."""
    with connect(ctx) as client:
        seen = client.ask(AcknowledgeIncidents(), Acknowledged).incidents
    found = {"acknowledged": [fields(incident) for incident in seen]}
    show(ctx, found, acknowledged_sheet(found))


# --- the process that does it ------------------------------------------------------------


def _asked(ctx: click.Context, verb: str, *more: Path) -> dict[str, Any]:
    """Return the tool's answer, also where it exits 1 for what a check has found. Raises
    `ClientError`."""
    said: deque[str] = deque(maxlen=COMPLAINTS_MAX)
    with _tool(ctx, verb, *more, show=said.append) as tool:
        answer = tool.output.read(ANSWER_BYTES_MAX + 1)
        code = tool.code()
    if code and not answer:
        _complain(ctx, verb, code, said)
    try:
        document: dict[str, Any] = msgspec.json.decode(answer[:ANSWER_BYTES_MAX])
        del document["schemaVersion"]
    except (*DECODE_ERRORS, KeyError, TypeError):
        raise VerbFailedError(f"cannot {verb}: its process gave no answer") from None
    return document


def _copied(ctx: click.Context) -> None:
    """Copy what is exported to standard output; a terminal is shown it as foreign text. Raises
    `ClientError`, `OSError`."""
    progress = ["--progress"] if sys.stderr.isatty() else []
    said: deque[str] = deque(maxlen=COMPLAINTS_MAX)
    with _tool(ctx, "export", *progress, show=partial(_show_progress, said)) as tool:
        to_terminal = sys.stdout.isatty()
        for line in tool.lines():
            try:
                write(_shown(line) if to_terminal else line)
            except OSError as error:
                if reader_left(error):
                    raise
                give_up(sys.stdout)
                detail = f"cannot export the output: {error.strerror}"
                raise VerbFailedError(detail) from None
        code = tool.code()
    if code:
        _complain(ctx, "export", code, said)


def _shown(line: bytes) -> bytes:
    return f"{clean(line.decode(errors='replace').rstrip())}\n".encode()


def _show_progress(said: deque[str], line: str) -> None:
    if found := _PROGRESS.fullmatch(line):
        done, rows = map(int, found.groups())
        end = "\n" if done == rows else ""
        sys.stderr.write(f"\rexported {done} of {rows} rows{end}")
        sys.stderr.flush()
    else:
        said.append(line)


def _tool(ctx: click.Context, verb: str, *more: str | Path, show: Show) -> Tool:
    place = from_config(ctx, state_dir)
    tool = Tool(verb, _TOOL, verb, place, *more, show=show)
    tool.end_after(ctx.meta.get("timeout"))
    return tool


def _complain(ctx: click.Context, verb: str, code: int, said: deque[str]) -> NoReturn:
    """Raise the tool's last line, or leave without a word where it has none: its reader has
    left."""
    last = list(said)[-1:]
    if code < 0:
        last = [f"cannot {verb}: its process was ended by {signal_name(-code)}"]
    exit_code = Exit(code) if code in _SHARED_EXITS else Exit.FAILED
    if not last:
        ctx.exit(exit_code)
    raise VerbFailedError(last[0], exit_code)


# --- sheets ------------------------------------------------------------------------------


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
    """Show names and values as they are."""
    return [Block(tuple((name, clean(str(value))) for name, value in found.items()))]


def acknowledged_sheet(found: dict[str, Any]) -> Sheet:
    seen = [("seen", clean(f"{each['at']} {each['detail']}")) for each in found["acknowledged"]]
    return [Block(tuple(seen or [("seen", "nothing")]))]
