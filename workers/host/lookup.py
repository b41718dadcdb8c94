"""Where the program of a script is whose command is a bare name."""

import os
from collections.abc import Mapping


def find_program(name: str, environment: Mapping[str, str]) -> str | None:
    """The file that a bare name is in the PATH of that environment, absolute, so that what is
    looked at here is what is executed from another directory. None where there is none.

    `shutil.which` would do it, and bring its compressors into every process of the daemon.
    """
    for directory in os.get_exec_path(environment):
        found = os.path.join(os.getcwd(), directory, name)
        if os.path.isfile(found) and os.access(found, os.X_OK):
            return found
    return None
