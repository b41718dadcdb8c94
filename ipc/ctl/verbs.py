"""The verbs that ask once and show the answer. Those that follow are in `streams.py`.

Each function is one verb: what is asked, and what of the answer is shown. How a request
can fail is `client.py`'s, and what that is as an exit code is `main.py`'s.
"""

import os
import select
import time
from typing import Any

import click
import msgspec

from ..actions import ID_CHARS_MAX, ExecutionStatus
from ..client import BadAnswerError, Client, ClientError, NotDoneError
from ..messages.control import (
    ActionIs,
    ActionsAre,
    GetStatus,
    ListActions,
    Ping,
    Pong,
    ShowAction,
    Shutdown,
    ShuttingDown,
    StatusIs,
    StopAction,
    Stopped,
    Sync,
    Synced,
)
from ..messages.views import ActionView
from ..sockets import wait_until_gone
from . import words
from .options import Output, Verb, connect, output_of
from .printing import Shown, now_us, show_document, show_line, show_sheet
from .table import Block, Sheet


class VerbFailedError(ClientError):
    """The daemon did what was asked, and it did not succeed."""


def possible_id(ctx: click.Context, param: click.Parameter, text: str) -> str:
    """Refuse what no action can be called."""
    if not 1 <= len(text) <= ID_CHARS_MAX:
        raise click.BadParameter(f"an action's id has 1 to {ID_CHARS_MAX} characters", ctx, param)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("an action's id is UTF-8", ctx, param) from None
    return text


def fields(view: msgspec.Struct) -> dict[str, Any]:
    """A view as the fields of a JSON document."""
    found: dict[str, Any] = msgspec.to_builtins(view)
    return found


def show(ctx: click.Context, document: dict[str, Any], sheet: Sheet) -> None:
    output = output_of(ctx)
    if output is Output.TABLE:
        show_sheet(sheet)
    else:
        show_document(document, output)


@click.command(cls=Verb)
@click.pass_context
def ping(ctx: click.Context) -> None:
    """Ask whether the daemon answers."""
    with connect(ctx) as client:
        pong = client.ask(Ping(), Pong)
    show(
        ctx,
        {"pong": True, "pid": pong.pid, "version": pong.version},
        [Block((("geoschedd", f"{words.clean(pong.version)}, process {pong.pid}, answers"),))],
    )


@click.command(cls=Verb)
@click.pass_context
def status(ctx: click.Context) -> None:
    """Show how the daemon, its backend and its clock are."""
    with connect(ctx) as client:
        found = client.ask(GetStatus(), StatusIs).status
    show(ctx, fields(found), words.status_sheet(found, now_us()))


@click.command("list", cls=Verb)
@click.option(
    "--status",
    "statuses",
    multiple=True,
    metavar="STATUS",
    type=click.Choice([str(known) for known in ExecutionStatus], case_sensitive=False),
    help=f"Only these, repeatable: {', '.join(ExecutionStatus)}.",
)
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Only the first N.")
@click.pass_context
def list_(ctx: click.Context, statuses: tuple[str, ...], limit: int | None) -> None:
    """List actions by the time they begin."""
    with connect(ctx) as client:
        gathered = _all_actions(client, statuses)
    actions = sorted(gathered, key=lambda action: (action.from_date, action.id))[:limit]
    if output_of(ctx) is Output.JSONL:
        for action in actions:
            show_line(action)
        return
    document = {"actions": [fields(action) for action in actions]}
    show(ctx, document, [words.actions_table(actions, now_us())])


def _all_actions(client: Client, statuses: tuple[str, ...]) -> list[ActionView]:
    """Every page. An action that moved between two pages is there once, as last seen."""
    found: dict[str, ActionView] = {}
    cursor = ""
    while True:
        page = client.ask(ListActions(statuses, cursor), ActionsAre)
        found.update((action.id, action) for action in page.actions)
        if not page.cursor:
            return list(found.values())
        if page.cursor == cursor:
            raise BadAnswerError("cannot list the actions: the daemon repeats a page")
        cursor = page.cursor


@click.command("show", cls=Verb)
@click.argument("id_", metavar="ID", callback=possible_id)
@click.pass_context
def show_action(ctx: click.Context, id_: str) -> None:
    """Show one action and its latest runs."""
    with connect(ctx) as client:
        found = client.ask(ShowAction(id_), ActionIs)
    show(
        ctx,
        {"action": fields(found.action), "runs": [fields(run) for run in found.runs]},
        words.action_sheet(found.action, found.runs, now_us()),
    )


@click.command(cls=Verb)
@click.option("--no-wait", is_flag=True, help="Only ask for it.")
@click.pass_context
def sync(ctx: click.Context, no_wait: bool) -> None:
    """Pull from the backend and report to it now."""
    with connect(ctx) as client, Shown() as shown:
        request = Sync(wait=not no_wait, progress=shown.wanted)
        synced = client.ask(request, Synced, on_progress=shown.progress)
    asked_for = [Block((("sync", "asked for"),))]
    sheet = asked_for if no_wait else words.sync_sheet(synced.result)
    show(ctx, fields(synced.result), sheet)
    if synced.error is not None:
        raise VerbFailedError(synced.error)


@click.command(cls=Verb)
@click.argument("id_", metavar="ID", callback=possible_id)
@click.pass_context
def stop(ctx: click.Context, id_: str) -> None:
    """Stop the run of an action; it becomes WONT_FINISH."""
    with connect(ctx) as client:
        action = client.ask(StopAction(id_), Stopped).action
    show(ctx, {"action": fields(action)}, words.action_sheet(action, (), now_us()))


@click.command(cls=Verb)
@click.pass_context
def shutdown(ctx: click.Context) -> None:
    """Stop the daemon in good order; return when it is gone."""
    began = time.monotonic()
    with connect(ctx) as client:
        leaving = client.ask(Shutdown(), ShuttingDown)
        bound = client.bound_seconds(leaving.bound_seconds)
    if not _gone(client, leaving.pid, bound - (time.monotonic() - began)):
        raise NotDoneError(
            f"cannot say how it ended: process {leaving.pid} not gone within {bound:g} s,"
            " and still stopping"
        )
    show(
        ctx,
        {"pid": leaving.pid, "gone": True},
        [Block((("geoschedd", f"process {leaving.pid} is gone"),))],
    )


def _gone(client: Client, pid: int, timeout_seconds: float) -> bool:
    """Whether the daemon ends in time: its process, for its locks outlive its socket.

    A daemon whose process cannot be seen from here is gone with its socket.
    """
    left = max(0.0, timeout_seconds)
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return wait_until_gone(client.path, timeout_seconds=left)
    try:
        ended, _, _ = select.select([process], [], [], left)
    finally:
        os.close(process)
    return bool(ended)
