"""The verb `diff`, and its table: the differences between the backend and daemonDB."""

from collections.abc import Iterable
from typing import Any

import click
import msgspec

from ...client import BadAnswerError, Client
from ...messages.control import Compare, Compared, DifferencesAre, ListDifferences
from ...messages.views import DifferenceView
from ..exits import Exit, VerbFailedError
from ..options import OutputFormat, Verb, connect, output_of
from ..printing import complain, fields, show, show_line
from ..table import Column, Table
from ..words import clean

COLUMNS = (
    Column("ID", 12, cut_middle=True),
    Column("FIELD", 8),
    Column("BACKEND", 8),
    Column("DAEMON", 8),
    Column("COUNTS", spared=1),
)


@click.command(cls=Verb)
@click.pass_context
def command(ctx: click.Context) -> int:
    """Pull, apply nothing, and show what differs; exit 1 if anything does."""
    with connect(ctx) as client:
        made = client.ask(Compare(), Compared)
        if made.error is not None:
            raise VerbFailedError(made.error)
        found = _all(client, made.number) if made.different else []
    if made.set_aside:
        complain(f"{made.set_aside} entries of the backend cannot be used, and are not compared")
    if output_of(ctx) is OutputFormat.JSONL:
        for difference in found:
            show_line(difference)
    else:
        document = {"differences": [fields(each) for each in found], "setAside": made.set_aside}
        show(ctx, document, [_table(found)])
    return Exit.FAILED if found else Exit.DONE


def _table(differences: Iterable[DifferenceView]) -> Table:
    rows = tuple(
        (
            clean(each.id),
            clean(each.field),
            _value(each.field, each.backend),
            _value(each.field, each.daemon),
            clean(each.owner),
        )
        for each in differences
    )
    return Table(COLUMNS, rows)


def _value(field: str, value: Any) -> str:
    if field == "id":
        return "missing" if value is None else "there"
    return clean(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _all(client: Client, number: int) -> list[DifferenceView]:
    found: list[DifferenceView] = []
    cursor = 0
    while True:
        page = client.ask(ListDifferences(number, cursor), DifferencesAre)
        found += page.differences
        if not page.cursor:
            return found
        if page.cursor <= cursor:
            raise BadAnswerError("cannot list the differences: the daemon repeats a page")
        cursor = page.cursor
