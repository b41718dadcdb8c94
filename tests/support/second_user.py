"""A second user of the host: a number that nobody has, taken on by a child process of root's."""

import os
import subprocess
from typing import Any

import pytest

SECOND_USER = 61234
#: For tests that are both users.
needs_two_users = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a second user")


def as_user(uid: int, *command: str, **how: Any) -> "subprocess.Popen[bytes]":
    """A command that a user runs, in a session of its own; the caller ends it."""
    return subprocess.Popen(
        command, user=uid, group=uid, extra_groups=[], start_new_session=True, **how
    )
