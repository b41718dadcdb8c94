"""What a user may not even look for is told by `--check` in a sentence."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support.daemon import Daemon, installation_for_everybody

NOBODY = 65534
MARK = "--- now as somebody else\n"
#: Once before, for all to be imported: the interpreter's own files may be closed, too.
CHECK = f"""
import os, sys
from geosched.supervisor.daemon import main
try:
    main(["--config", sys.argv[1], "--check"])
except SystemExit:
    sys.stderr.write({MARK!r})
os.setgroups([]); os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
main(["--config", sys.argv[1], "--check"])
"""


@pytest.fixture
def installed() -> Iterator[Daemon]:
    with installation_for_everybody() as made:
        closed = made.root / "closed"
        closed.mkdir(mode=0o700)
        (closed / "in").mkdir()
        yield made


def checked(installed: Daemon, **backend: Any) -> str:
    """What the check says to somebody for whom a directory is closed."""
    installed.configure(scripts={"default": {"command": ["/bin/true"]}}, backend=backend)
    for directory in ("state", "run", "log"):
        (installed.root / directory).mkdir(exist_ok=True)
        os.chown(installed.root / directory, NOBODY, NOBODY)
    done = subprocess.run(
        [sys.executable, "-P", "-c", CHECK, installed.config],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    said = done.stderr.partition(MARK)[2]
    assert "Traceback" not in said
    return said


def test_a_file_of_actions_in_a_closed_directory(installed: Daemon):
    closed = installed.root / "closed/in"
    said = checked(installed, path=str(closed / "actions.json"))
    assert f"backend.path: {closed} is not a directory" in said


def test_a_token_in_a_closed_directory(installed: Daemon):
    token = installed.root / "closed/in/token"
    said = checked(installed, kind="http", url="https://a.example", token_file=str(token))
    assert f"backend.token_file: cannot read {token}" in said


def test_a_file_of_tokens_in_a_closed_directory(installed: Daemon):
    tokens = installed.root / "closed/in/tokens.json"
    oauth = {"auth": "oauth", "oauth_client_id": "c", "oauth_token_url": "https://a.example/t"}
    backend = {"kind": "http", "url": "https://a.example", "token_file": str(tokens)} | oauth
    assert "backend.token_file: new tokens cannot be kept" in checked(installed, **backend)
