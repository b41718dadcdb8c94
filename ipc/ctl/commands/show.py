"""The verb `show`, and its sheet: one action and its runs."""

from collections.abc import Iterable, Sequence

import click

from ...messages.control import ActionIs, ShowAction
from ...messages.views import ActionView, RunView
from ..options import Verb, connect, possible_id
from ..printing import fields, now_us, show
from ..table import Column, Sheet, Table
from ..words import NOTHING, action_block, clean, short_time, why

COLUMNS = (
    Column("RUN"),
    Column("STARTED (UTC)"),
    Column("ENDED (UTC)", spared=2),
    Column("RESULT"),
    Column("PIDS", spared=3),
    Column("WHY", 8, spared=1),
)


@click.command(cls=Verb)
@click.argument("id_", metavar="ID", callback=possible_id)
@click.pass_context
def command(ctx: click.Context, id_: str) -> None:
    """Show one action and its latest runs."""
    with connect(ctx) as client:
        found = client.ask(ShowAction(id_), ActionIs)
    show(
        ctx,
        {"action": fields(found.action), "runs": [fields(run) for run in found.runs]},
        action_sheet(found.action, found.runs, now_us()),
    )


def action_sheet(action: ActionView, runs: Sequence[RunView], now_us: int) -> Sheet:
    block = action_block(action, now_us)
    return [block, runs_table(runs, now_us)] if runs else [block]


def runs_table(runs: Iterable[RunView], now_us: int) -> Table:
    rows = tuple(
        (
            str(run.attempt),
            short_time(run.started_at, now_us),
            short_time(run.ended_at, now_us),
            _result(run),
            f"{run.worker_pid or NOTHING} {run.script_pid or NOTHING}",
            why(run.reason, run.detail),
        )
        for run in runs
    )
    return Table(COLUMNS, rows)


def _result(run: RunView) -> str:
    if run.signal:
        return clean(run.signal)
    if run.exit_code is not None:
        return f"exit {run.exit_code}"
    return NOTHING if run.ended_at else "running"
