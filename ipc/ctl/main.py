"""`geosched-ctl`: the command, and what its exit codes mean (INTERFACE, "Commands")."""

import enum
import io
import os
import sys
from collections.abc import Sequence

import click

from ... import __version__
from ..client import (
    ClientError,
    NotAnsweringError,
    NotDoneError,
    NotPermittedError,
    NotRunningError,
    RefusedError,
)
from ..messages.control import RefusalKind
from ..messages.login import Why
from .db import StoreToolError, db
from .diff import diff
from .login import LoginFailedError, login
from .options import shared_options
from .outbox import outbox
from .printing import complain
from .streams import events, logs
from .verbs import list_, ping, show_action, shutdown, status, stop, sync


class Exit(enum.IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    NO_DAEMON = 3  # not running, or not answering
    NOT_PERMITTED = 4
    NO_SUCH_ACTION = 5
    CONFLICT = 6
    NOT_DONE = 8  # answered, but not done in time
    INTERRUPTED = 130  # as shells say it: 128 and SIGINT


_REFUSALS = {
    RefusalKind.BAD_REQUEST: Exit.USAGE,
    RefusalKind.NOT_PERMITTED: Exit.NOT_PERMITTED,
    RefusalKind.NO_SUCH_ACTION: Exit.NO_SUCH_ACTION,
    RefusalKind.CONFLICT: Exit.CONFLICT,
    RefusalKind.FAILED: Exit.FAILED,
}

_LOGINS = {
    Why.CONFIGURATION: Exit.USAGE,
    Why.DENIED: Exit.NOT_PERMITTED,
    Why.NOT_CONFIRMED: Exit.NOT_DONE,
    Why.FAILED: Exit.FAILED,
}


def _show_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"geosched-ctl {__version__}")
        ctx.exit()


cli = click.Group(
    "geosched-ctl",
    help="Control geoschedd, the daemon that runs action scripts for windows of time.",
    commands=[
        list_,
        status,
        show_action,
        logs,
        events,
        sync,
        diff,
        stop,
        outbox,
        ping,
        db,
        shutdown,
        login,
    ],
    params=[
        *shared_options(environment=True),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_version,
            help="Show the version and exit.",
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=False,
)


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command line. Every failure is one line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        ended: object = cli.main(arguments, prog_name="geosched-ctl", standalone_mode=False)
    except click.ClickException as error:
        complain(_one_line(error))
        return Exit.USAGE
    except click.Abort:
        return Exit.INTERRUPTED
    except ClientError as error:
        complain(str(error))
        return exit_of(error)
    except OSError as error:
        return _output_lost(error)
    return ended if isinstance(ended, int) else Exit.DONE


def exit_of(error: ClientError) -> Exit:
    match error:
        case NotRunningError() | NotAnsweringError():
            return Exit.NO_DAEMON
        case NotPermittedError():
            return Exit.NOT_PERMITTED
        case NotDoneError():
            return Exit.NOT_DONE
        case StoreToolError(code=code):
            return Exit(code)
        case RefusedError(kind=kind):
            return _REFUSALS[kind]
        case LoginFailedError(why=why):
            return _LOGINS[why]
        case _:
            return Exit.FAILED


def _one_line(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split())
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    return f"{text} (see {ctx.command_path} --help)" if ctx else text


def _output_lost(error: OSError) -> int:
    """Standard output takes no more: Python must not try again while it leaves.

    A reader that left early is no failure worth a word, and click ends on it already.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    complain(f"cannot write the output: {error.strerror or error}")
    return Exit.FAILED
