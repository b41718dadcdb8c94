"""`geosched-ctl db`: the verbs about the database itself.

All but `acknowledge` work on its files, in a process of their own, whether a daemon runs or
not: so the caller needs the rights to them, and a path of the caller's never reaches the
daemon. What such a process does is not known here; what it says is shown.
"""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from ..client import ClientError, NotDoneError
from ..messages.control import Acknowledged, AcknowledgeIncidents
from ..paths import state_dir
from . import words
from .options import Output, Verb, connect, from_config, output_of
from .printing import show_document, show_sheet
from .verbs import fields

_TOOL = (sys.executable, "-P", "-m", "geosched.supervisor.store.tools.cli")
_FAILED = 1
#: Exit codes that mean the same here: failed, not permitted, a daemon runs, interrupted.
_KNOWN = (1, 4, 6, 130)


class StoreToolError(ClientError):
    """It could not be done; `code` is the exit code that says why."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


@click.group()
def db() -> None:
    """Look at the database, check it, back it up, restore it."""


@db.command(cls=Verb)
@click.pass_context
def stats(ctx: click.Context) -> None:
    """Show sizes, counts, free space and the oldest rows."""
    found = _asked(ctx, "stats")
    _show(ctx, found, words.db_stats_sheet)


@db.command(cls=Verb)
@click.pass_context
def check(ctx: click.Context) -> None:
    """Look for damage and contradictions; exit 1 if there are any."""
    found = _asked(ctx, "check")
    _show(ctx, found, words.db_check_sheet)
    if not found["good"]:
        raise StoreToolError(_FAILED, "the database is not as it should be")


@db.command(cls=Verb)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.pass_context
def backup(ctx: click.Context, directory: Path) -> None:
    """Copy it to DIR/data.mdb, verified. The daemon may go on."""
    _show(ctx, _asked(ctx, "backup", directory.absolute()), words.plain_sheet)


@db.command(cls=Verb)
@click.pass_context
def export(ctx: click.Context) -> None:
    """Print every row as a line of JSON."""
    _run(ctx, "export", stdout=None)


@db.command(cls=Verb)
@click.pass_context
def compact(ctx: click.Context) -> None:
    """Write it anew without free space. The daemon has to be stopped."""
    _show(ctx, _asked(ctx, "compact"), words.plain_sheet)


@db.command(cls=Verb)
@click.argument(
    "directory", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.pass_context
def restore(ctx: click.Context, directory: Path) -> None:
    """Take the backup in DIR. The daemon has to be stopped; the database that is there is
    set aside."""
    _show(ctx, _asked(ctx, "restore", directory.absolute()), words.plain_sheet)


@db.command(cls=Verb)
@click.pass_context
def acknowledge(ctx: click.Context) -> None:
    """Say that you have seen what happened to it: `status` is silent about it then."""
    with connect(ctx) as client:
        seen = client.ask(AcknowledgeIncidents(), Acknowledged).incidents
    shown = [fields(incident) for incident in seen]
    _show(ctx, {"acknowledged": shown}, words.acknowledged_sheet)


# --- the process that does it -----------------------------------------------------------


def _asked(ctx: click.Context, verb: str, *more: Path) -> dict[str, Any]:
    said = _run(ctx, verb, *more, stdout=subprocess.PIPE)
    document: dict[str, Any] = msgspec.json.decode(said)
    del document["schemaVersion"]
    return document


def _run(ctx: click.Context, verb: str, *more: Path, stdout: int | None) -> bytes:
    """What it said. A check that finds something says so too. Raises `ClientError`."""
    place = from_config(ctx, state_dir)
    stderr = None if stdout is None and sys.stderr.isatty() else subprocess.PIPE
    seconds = ctx.meta.get("timeout")
    try:
        done = subprocess.run(
            [*_TOOL, verb, place, *more],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotDoneError(f"cannot {verb}: not done within {seconds:g} s") from None
    except OSError as error:
        raise StoreToolError(_FAILED, f"cannot {verb}: {error.strerror}: {_TOOL[0]}") from None
    if done.returncode and not done.stdout:
        _complain(ctx, verb, done.returncode, done.stderr)
    return done.stdout or b""


def _complain(ctx: click.Context, verb: str, code: int, said: bytes | None) -> None:
    """Never returns. With no word of why, somebody has heard it already, or left."""
    last = (said or b"").decode(errors="replace").strip().splitlines()[-1:]
    if code < 0:
        last = [f"cannot {verb}: its process was ended by {signal.Signals(-code).name}"]
    code = code if code in _KNOWN else _FAILED
    if not last:
        ctx.exit(code)
    raise StoreToolError(code, last[0])


def _show(ctx: click.Context, document: dict[str, Any], sheet_of: words.SheetOf) -> None:
    output = output_of(ctx)
    if output is Output.TABLE:
        show_sheet(sheet_of(document))
    else:
        show_document(document, output)
