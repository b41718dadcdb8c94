"""The verb `list`, and its table."""

from collections.abc import Iterable

import click

from ...actions import ExecutionStatus
from ...client import BadAnswerError, Client
from ...messages.control import ActionsAre, ListActions
from ...messages.views import ActionView
from ..options import OutputFormat, Verb, connect, output_of
from ..printing import fields, now_us, show, show_line
from ..table import Column, Table
from ..words import clean, short_time, why

COLUMNS = (
    Column("ID", 12, cut_middle=True),
    Column("FROM (UTC)"),
    Column("TO (UTC)", spared=2),
    Column("PHASE", spared=1),
    Column("STATUS"),
    Column("WHY", 8, spared=3),
)


@click.command(cls=Verb)
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
def command(ctx: click.Context, statuses: tuple[str, ...], limit: int | None) -> None:
    """List actions by the time they begin."""
    with connect(ctx) as client:
        gathered = _all_actions(client, statuses)
    actions = sorted(gathered, key=lambda action: (action.from_date, action.id))[:limit]
    if output_of(ctx) is OutputFormat.JSONL:
        for action in actions:
            show_line(action)
        return
    document = {"actions": [fields(action) for action in actions]}
    show(ctx, document, [actions_table(actions, now_us())])


def _all_actions(client: Client, statuses: tuple[str, ...]) -> list[ActionView]:
    """Read every page. An action that moved between two pages is there once, as last seen."""
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


def actions_table(actions: Iterable[ActionView], now_us: int) -> Table:
    rows = tuple(
        (
            clean(action.id),
            short_time(action.from_date, now_us),
            short_time(action.to_date, now_us),
            clean(action.phase),
            action.execution_status or "NULL",
            why(action.reason, action.detail),
        )
        for action in actions
    )
    return Table(COLUMNS, rows)
