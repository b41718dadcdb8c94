"""The verb `stop`."""

import click

from ...messages.control import StopAction, Stopped
from ..options import Verb, connect, possible_id
from ..printing import fields, now_us, show
from ..words import action_block


@click.command(cls=Verb)
@click.argument("id_", metavar="ID", callback=possible_id)
@click.pass_context
def command(ctx: click.Context, id_: str) -> None:
    """Stop the run of an action; it becomes WONT_FINISH."""
    with connect(ctx) as client:
        action = client.ask(StopAction(id_), Stopped).action
    show(ctx, {"action": fields(action)}, [action_block(action, now_us())])
