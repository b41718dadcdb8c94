"""Options that all verbs share (the daemon's socket, a time-out, the output), and arguments.

They may stand before the verb or after it; the later one counts. Nothing is opened
before the whole command line is known to be good.
"""

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..actions import ID_CHARS_MAX
from ..client import Client
from ..paths import DEFAULT_CONFIG, control_socket
from ..socket_files import endpoint

CONFIG_VARIABLE = "GEOSCHED_CONFIG"
SOCKET_VARIABLE = "GEOSCHED_SOCKET"
TIMEOUT_SECONDS_MAX = 86_400.0


class OutputFormat(enum.StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


def _remember_timeout(ctx: click.Context, param: click.Parameter, seconds: float | None) -> None:
    if seconds is not None and not 0 < seconds <= TIMEOUT_SECONDS_MAX:
        raise click.BadParameter(f"{seconds} is not above 0 and at most a day", ctx, param)
    _remember(ctx, param, seconds)


def _remember(ctx: click.Context, param: click.Parameter, value: object) -> None:
    if value is not None:
        ctx.meta[str(param.name)] = value


def shared_options(*, environment: bool) -> list[click.Parameter]:
    """Return new options. With `environment`, variables stand in for those that are not given:
    on the group only, where an option after the verb still overrules them."""

    def option(*names: str, variable: str | None = None, **more: Any) -> click.Option:
        return click.Option(
            names,
            envvar=variable if environment else None,
            show_envvar=True,
            expose_value=False,
            **{"callback": _remember, **more},
        )

    return [
        option(
            "--config",
            variable=CONFIG_VARIABLE,
            metavar="FILE",
            help=f"The daemon's configuration.  [default: {DEFAULT_CONFIG}]",
        ),
        option(
            "--socket",
            variable=SOCKET_VARIABLE,
            metavar="ENDPOINT",
            help="The daemon's control socket, a path or ipc://path, instead of the"
            " configuration's.",
        ),
        option(
            "--timeout",
            type=float,
            metavar="SECONDS",
            callback=_remember_timeout,
            help="Longest wait for an answer.",
        ),
        option(
            "-o",
            "--output",
            type=click.Choice([str(output) for output in OutputFormat], case_sensitive=False),
            help="How to print.  [default: table]",
        ),
    ]


def possible_id(ctx: click.Context, param: click.Parameter, text: str) -> str:
    """Return the argument `ID`. Raises `click.BadParameter` where no action can have that id."""
    if not 1 <= len(text) <= ID_CHARS_MAX:
        raise click.BadParameter(f"an action's id has 1 to {ID_CHARS_MAX} characters", ctx, param)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("an action's id is UTF-8", ctx, param) from None
    return text


class Verb(click.Command):
    """A command that takes the shared options too."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.params.extend(shared_options(environment=False))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            if hint := self._dash_hint(ctx, given):
                raise click.UsageError(f"{error.format_message()} {hint}", ctx) from None
            raise

    def _dash_hint(self, ctx: click.Context, args: list[str]) -> str:
        """Return a hint where a word that begins with a dash may be an id, and no option."""
        arguments = [param for param in self.params if isinstance(param, click.Argument)]
        known = {name for param in self.get_params(ctx) for name in (*param.opts, "--")}
        odd = [
            arg
            for arg in args
            if arg.startswith("-") and arg.partition("=")[0] not in known and not arg[1:].isdigit()
        ]
        if not arguments or not odd:
            return ""
        name = arguments[0].make_metavar(ctx).strip("[].")
        told = f"{ctx.command_path} -- {odd[0]}"
        return f"If that is the {name}: one that begins with a dash comes last, after --: {told}"


def output_of(ctx: click.Context) -> OutputFormat:
    return OutputFormat(ctx.meta.get("output", OutputFormat.TABLE))


def connect(ctx: click.Context) -> Client:
    """Connect to the daemon of this command line. Raises `ClientError` where it cannot be
    asked, `click.UsageError` where its socket is not known."""
    path = _socket_path(ctx)
    try:
        endpoint(path)
    except OSError as error:
        raise click.UsageError(str(error), ctx) from None
    return Client(path, timeout_seconds=ctx.meta.get("timeout"))


def _socket_path(ctx: click.Context) -> Path:
    given = ctx.meta.get("socket")
    if given is not None:
        scheme, mark, rest = given.rpartition("://")
        if scheme not in ("", "ipc") or (mark and not scheme) or not rest:
            raise click.UsageError(f"cannot use the socket {given!r}: no path or ipc://path", ctx)
        return Path(rest).absolute()
    return from_config(ctx, control_socket)


def from_config(ctx: click.Context, place_of: Callable[[Path], Path]) -> Path:
    """Return `place_of(config)` for the chosen file. Raises `click.UsageError`."""
    config = Path(ctx.meta.get("config", DEFAULT_CONFIG))
    try:
        return place_of(config)
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:
        reason = str(error)
    raise click.UsageError(f"cannot read the configuration {config}: {reason}", ctx)
