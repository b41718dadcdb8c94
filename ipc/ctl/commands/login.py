"""The verb `login`: a person confirms in a browser that this host may act for them.

It asks no daemon. Configuration, network and tokens belong to another process
(`supervisor/login.py`), which this one starts; it shows its messages, one JSON a line.
"""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import click
import msgspec

from ...decoding import DECODE_ERRORS
from ...messages.login import CodeGiven, LoggedIn, NotLoggedIn, Said, Why, decode
from ...paths import DEFAULT_CONFIG
from ..exits import Exit, VerbFailedError
from ..options import TIMEOUT_SECONDS_MAX, OutputFormat, Verb, output_of
from ..printing import complain, show_document, show_sheet
from ..table import Block
from ..tool import Complaints, Tool
from ..words import clean

TOOL = "geosched.supervisor.login"
#: It keeps to its time by itself, unless it has been taken over.
LATE_SECONDS_MAX = 10.0
#: A code, and how it ended.
LINES_MAX = 2

_EXITS = {
    Why.CONFIGURATION: Exit.USAGE,
    Why.DENIED: Exit.NOT_PERMITTED,
    Why.NOT_CONFIRMED: Exit.NOT_DONE,
    Why.FAILED: Exit.FAILED,
}


@click.command(cls=Verb)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Log in to the backend's OAuth server, with a browser anywhere."""
    config = Path(ctx.meta.get("config", DEFAULT_CONFIG)).absolute()
    seconds = ctx.meta.get("timeout") or TIMEOUT_SECONDS_MAX
    for said in _said(config, seconds):
        match said:
            case CodeGiven():
                _show_code(said, output_of(ctx))
            case LoggedIn():
                _show_done(said, output_of(ctx))
                return
            case NotLoggedIn(why, detail):
                raise VerbFailedError(detail, _EXITS[why])
    raise VerbFailedError("cannot log in: its process ended without a word")


def _said(config: Path, seconds: float) -> Iterator[Said]:
    """Start the login and yield its messages."""
    with Tool("log in", TOOL, config, str(seconds), show=Complaints()) as tool:
        tool.end_after(seconds + LATE_SECONDS_MAX)
        for line in islice(tool.lines(), LINES_MAX):
            try:
                yield decode(line)
            except DECODE_ERRORS:
                raise VerbFailedError("cannot log in: its process is no login") from None
        tool.code()


def _show_code(code: CodeGiven, output: OutputFormat) -> None:
    address = clean(code.verification_uri_complete or code.verification_uri)
    if output is OutputFormat.TABLE:
        minutes = f"for {code.valid_seconds / 60:.0f} min"
        show_sheet(
            [Block((("open", address), ("code", clean(code.user_code)), ("valid", minutes)))]
        )
    elif output is OutputFormat.JSON:  # one document is the whole output: a person looks elsewhere
        complain(f"open {address} and confirm the code {code.user_code}")
    else:
        show_document(msgspec.to_builtins(code), output)


def _show_done(done: LoggedIn, output: OutputFormat) -> None:
    if not done.renewable:
        complain(
            "the server gave no refresh token, so this login ends with its access token"
            " (many servers want offline_access in backend.oauth_scope)"
        )
    if output is OutputFormat.TABLE:
        show_sheet([Block((("login", "done"), ("tokens", f"kept in {clean(done.token_file)}")))])
    else:
        show_document(msgspec.to_builtins(done), output)
