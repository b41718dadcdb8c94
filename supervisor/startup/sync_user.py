"""Check of the user that the synchroniser of a daemon of root becomes, `backend.user`."""

import os
from collections.abc import Iterator
from functools import partial

from ...workers.host import privileges
from ...workers.host.privileges import Account, UnusableUserError
from ...workers.host.trust import ROOT
from .apart import CallError, called_apart


def problems(user: str) -> Iterator[str]:
    """Yield why the synchroniser cannot become the user: it is tried, in a process of its own."""
    if privileges.drops_to(user) is None:
        return
    try:
        reasons = called_apart(partial(_why_not, privileges.look_up(user)))
    except (UnusableUserError, CallError, OSError) as error:
        reasons = [str(error)]
    yield from (f"backend.user: {reason}" for reason in reasons)


def remarks(user: str) -> Iterator[str]:
    """Yield what an operator may not have meant."""
    if os.geteuid() == ROOT and privileges.drops_to(user) is None:
        yield "backend.user: what reads the network's answers keeps the rights of root"
    if os.geteuid() != ROOT and user:
        yield "backend.user: has no effect, only root can become another user"


def _why_not(account: Account) -> list[str]:
    try:
        privileges.prepare()
        privileges.become(account)
    except OSError as error:
        return [f"cannot become user {account.uid}: {error.strerror or error}"]
    return []
