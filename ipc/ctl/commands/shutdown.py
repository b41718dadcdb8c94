"""The verb `shutdown`, which returns when the daemon is gone."""

import os
import select
import time

import click

from ...client import Client, NotDoneError
from ...messages.control import Shutdown, ShuttingDown
from ...socket_files import wait_until_gone
from ..options import Verb, connect
from ..printing import show
from ..table import Block


@click.command(cls=Verb)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Stop the daemon in good order; return when it is gone."""
    began_monotonic = time.monotonic()
    with connect(ctx) as client:
        leaving = client.ask(Shutdown(), ShuttingDown)
        bound_seconds = client.bound_seconds(leaving.bound_seconds)
    left_seconds = bound_seconds - (time.monotonic() - began_monotonic)
    if not _gone(client, leaving.pid, left_seconds):
        raise NotDoneError(
            f"cannot say how it ended: process {leaving.pid} not gone within {bound_seconds:g} s,"
            " and still stopping"
        )
    show(
        ctx,
        {"pid": leaving.pid, "gone": True},
        [Block((("geoschedd", f"process {leaving.pid} is gone"),))],
    )


def _gone(client: Client, pid: int, timeout_seconds: float) -> bool:
    """Wait for the end of the daemon's process, whose locks outlive its socket.

    Where the process cannot be opened, the end of the socket counts. False when the time is up.
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
