"""A real tRPC server on loopback, of the libraries in `tests/peers/trpc`.

    with TrpcServer() as server:
        server.set(actions=[entry("a")], fault="html")
        ... server.url ... server.asked ... server.statuses ...

It needs Node.js. Its libraries are installed beside it, once, by the versions in the lock
file; where that cannot be done, the test is skipped and says why.
"""

import fcntl
import functools
import json
import shutil
import subprocess
from typing import Any

import pytest
import requests

from .loopback import Served
from .paths import TESTS

PEER = TESTS / "peers" / "trpc"
NODE_MAJOR_MIN = 18
INSTALL_SECONDS_MAX = 50
ANSWER_SECONDS_MAX = 10


def install() -> None:
    """Have the server's libraries in place, or skip the test."""
    if (missing := why_not()) is not None:
        pytest.skip(f"no tRPC server to test against: {missing}")


@functools.cache
def why_not() -> str | None:
    """Why the server cannot be run here. Installs it where it can be, once."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False)
    if int(version.stdout.strip().lstrip("v").partition(".")[0] or 0) < NODE_MAJOR_MIN:
        return f"node is older than {NODE_MAJOR_MIN}: {version.stdout.strip()}"
    with (PEER / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs must not install at once
        return _install()


def _install() -> str | None:
    locked = (PEER / "package-lock.json").read_bytes()
    done = PEER / "node_modules" / ".installed"
    if done.exists() and done.read_bytes() == locked:
        return None
    command = ["npm", "ci", "--ignore-scripts", "--no-progress", "--fetch-retries=1"]
    try:
        run = subprocess.run(
            command,
            cwd=PEER,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"npm ci takes more than {INSTALL_SECONDS_MAX} s"
    if run.returncode:
        return f"npm ci fails: {' '.join(run.stderr.split())[:200]}"
    done.write_bytes(locked)
    return None


class TrpcServer(Served):
    """`old`: by the libraries that the original backend locks, instead of today's."""

    def __init__(self, *, old: bool = False) -> None:
        install()
        command = ["node", str(PEER / "server.mjs"), *(["--old"] if old else [])]
        # It leaves when its standard input ends: with us, however we end.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, complaint = self._process.communicate(timeout=ANSWER_SECONDS_MAX)
            raise AssertionError(f"the tRPC server does not start: {complaint.decode()}")
        self._base = f"http://127.0.0.1:{json.loads(line)['port']}"

    @property
    def url(self) -> str:
        return f"{self._base}/api/trpc"

    def set(self, **changes: Any) -> None:
        """Names and meanings are those of `state` in the server."""
        self._ask("PUT", changes)

    @property
    def asked(self) -> list[dict[str, Any]]:
        """Every request as it came: method, path, query, headers, body."""
        found: list[dict[str, Any]] = self._ask("GET")["asked"]
        return found

    @property
    def statuses(self) -> list[dict[str, Any]]:
        """Every status that was taken, and whether it was `applied` or a `duplicate`."""
        found: list[dict[str, Any]] = self._ask("GET")["statuses"]
        return found

    @property
    def connections(self) -> int:
        """How many were made to it, this one included."""
        found: int = self._ask("GET")["connections"]
        return found

    def _ask(self, method: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.request(
                method, f"{self._base}/_state", json=changes, timeout=ANSWER_SECONDS_MAX
            )
        found: dict[str, Any] = answer.json()
        return found

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate(timeout=ANSWER_SECONDS_MAX)
