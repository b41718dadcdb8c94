"""A second user of this host, whom the daemon must not trust: Python code that runs as them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: No account of any host that we know.
SECOND_USER = 61_234

#: `become()` in the code: its imports come before, for they may be readable to root alone.
_BECOME = """
import os
def become():
    os.setgroups([]); os.setgid({uid}); os.setuid({uid})
"""


@contextmanager
def as_user(uid: int, code: str, *arguments: str | Path) -> "Iterator[subprocess.Popen[str]]":
    """Run Python code that calls `become()` once it has its imports; kill it in the end."""
    if os.geteuid() != 0:
        pytest.skip("only root can be a second user")
    process = subprocess.Popen(
        [sys.executable, "-c", _BECOME.format(uid=uid) + code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
