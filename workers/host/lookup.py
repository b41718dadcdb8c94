"""Lookup of a script's program in its PATH.

A module of its own so that nothing else comes with it (see `find_program`)."""

import os
from collections.abc import Mapping


def find_program(name: str, environment: Mapping[str, str]) -> str | None:
    """Return the file that a bare name means in the PATH of an environment; None if there is none.

    The path is absolute, so that the file checked here is the one executed from another
    directory. `shutil.which` would import its compressors into every process of the daemon.
    """
    for directory in os.get_exec_path(environment):
        found = os.path.join(os.getcwd(), directory, name)
        if os.path.isfile(found) and os.access(found, os.X_OK):
            return found
    return None
