"""Hand-over of the backend's settings to a process that speaks to the network for a command.

That process does not read the configuration file, and gives up root's rights before it reads a
byte of the network (`workers/sync/unprivileged.py`).
"""

import os
from pathlib import Path

import msgspec

from ...ipc.messages.sync import BackendAddress
from ...workers.host.dirfd import Directory, refuse_exposed
from ...workers.host.files import in_memory


def handed_over(backend: BackendAddress) -> int:
    """Return a descriptor to read it from, in the next program too: arguments are there for
    everybody to see, and a proxy may have a password in it."""
    descriptor = in_memory("geosched-backend", msgspec.json.encode(backend))
    os.set_inheritable(descriptor, True)
    return descriptor


def owner_of(state_dir: Path) -> int:
    """Return the user of the daemon that works on this directory; our own where it is not there.
    Raises `UntrustedError` where others say which directory that is, `OSError`."""
    try:
        directory, found = Directory.of_one_owner(state_dir)
    except FileNotFoundError:
        refuse_exposed(state_dir)
        return os.geteuid()
    directory.close()
    return found.st_uid
