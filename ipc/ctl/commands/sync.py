"""The verb `sync`."""

import click

from ...messages.control import Sync, Synced
from ...messages.views import SyncView
from ..exits import VerbFailedError
from ..options import Verb, connect
from ..printing import ProgressLine, fields, show
from ..table import Block, Sheet


@click.command(cls=Verb)
@click.option("--no-wait", is_flag=True, help="Only ask for it.")
@click.pass_context
def command(ctx: click.Context, no_wait: bool) -> None:
    """Pull from the backend and report to it now."""
    with connect(ctx) as client, ProgressLine() as line:
        request = Sync(wait=not no_wait, progress=line.wanted)
        synced = client.ask(request, Synced, on_progress=line.show)
    asked_for = [Block((("sync", "asked for"),))]
    show(ctx, fields(synced.result), asked_for if no_wait else sync_sheet(synced.result))
    if synced.error is not None:
        raise VerbFailedError(synced.error)


def sync_sheet(result: SyncView) -> Sheet:
    return [
        Block(
            (
                ("added", str(result.added)),
                ("updated", str(result.updated)),
                ("withdrawn", str(result.withdrawn)),
                ("unchanged", str(result.unchanged)),
                ("quarantined", str(result.quarantined)),
                ("reported", str(result.reported)),
            )
        )
    ]
