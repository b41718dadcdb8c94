"""The command `geosched-ctl`: its verbs, and its failures as exit codes."""

import importlib
import inspect
import io
import os
import sys
from collections.abc import Sequence

import click

from ... import __version__
from .. import standard_streams
from ..client import ClientError
from . import commands
from .exits import Exit, exit_of
from .options import shared_options
from .printing import complain


class Verbs(click.Group):
    """The modules of `commands`, of which only the one that is asked for is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        modules = map(inspect.getmodulename, os.listdir(commands.__path__[0]))
        found = {name for name in modules if name and name != "__init__"}
        return sorted(found.union(super().list_commands(ctx)))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = self.list_commands(ctx)
        # For an unknown name all of them: click suggests verbs that are similar.
        for name in [cmd_name] if cmd_name in known else known:
            module = importlib.import_module(f"{commands.__name__}.{name}")
            self.add_command(module.command, name)
        return self.commands.get(cmd_name)


def _show_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"geosched-ctl {__version__}")
        ctx.exit()


cli = Verbs(
    "geosched-ctl",
    help="Control geoschedd, the daemon that runs action scripts for windows of time.",
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
    """Run the command `geosched-ctl`, and exit."""
    standard_streams.complete()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Return the exit code of one command line. Every failure is one line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        ended: object = cli.main(arguments, prog_name="geosched-ctl", standalone_mode=False)
    except click.ClickException as error:
        complain(_one_line(error))
        return Exit.USAGE
    except click.Abort:
        standard_streams.give_up(sys.stdout)  # or Python waits at its exit for who reads
        return Exit.INTERRUPTED
    except ClientError as error:
        complain(str(error))
        return exit_of(error)
    except OSError as error:
        return _output_lost(error)
    return ended if isinstance(ended, int) else Exit.DONE


def _one_line(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split())
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    return f"{text} (see {ctx.command_path} --help)" if ctx else text


def _output_lost(error: OSError) -> int:
    """Report that standard output takes no more, and keep Python from writing again at exit.

    A reader that left early is no failure: click ends on that earlier, without a message.
    """
    standard_streams.give_up(sys.stdout)
    complain(f"cannot write the output: {error.strerror or error}")
    return Exit.FAILED
