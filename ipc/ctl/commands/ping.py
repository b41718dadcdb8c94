"""The verb `ping`."""

import click

from ...messages.control import Ping, Pong
from ..options import Verb, connect
from ..printing import show
from ..table import Block
from ..words import clean


@click.command(cls=Verb)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Ask whether the daemon answers."""
    with connect(ctx) as client:
        pong = client.ask(Ping(), Pong)
    show(
        ctx,
        {"pong": True, "pid": pong.pid, "version": pong.version},
        [Block((("geoschedd", f"{clean(pong.version)}, process {pong.pid}, answers"),))],
    )
