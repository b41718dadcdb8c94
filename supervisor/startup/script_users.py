"""Users under whom the scripts of the settings run, by number, for the sweep.

A name service may hang, so a process asks it that is given up then.
"""

import logging
import os
import pwd
from collections.abc import Iterable

from ..config.sections import Settings
from .apart import CallError, called_apart

log = logging.getLogger(__name__)


def script_users(settings: Settings) -> frozenset[int]:
    """Return the users that scripts are given. A name that nobody can look up is left out, and
    that is logged: what an earlier daemon left of that user is found by its group and its note.
    Looks nobody up where this process can become nobody else."""
    given = {script.user for script in settings.scripts.values() if script.user}
    numbers = {int(user) for user in given if user.isdecimal()}
    names = sorted(user for user in given if not user.isdecimal())
    if os.geteuid() != 0 or not names:
        return frozenset(numbers)
    try:
        found = called_apart(lambda: [str(uid) for uid in _looked_up(names)])
    except (CallError, OSError) as error:
        log.warning(
            "Cannot look up the users of scripts, %s: %s",
            ", ".join(names),
            error,
            extra={"event": "users-unknown"},
        )
        found = []
    return frozenset(numbers | {int(uid) for uid in found})


def _looked_up(names: Iterable[str]) -> Iterable[int]:
    for name in names:
        try:
            yield pwd.getpwnam(name).pw_uid
        except KeyError:  # as each start of its script will say
            continue
