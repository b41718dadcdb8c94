"""`geosched-ctl db` as a user runs it, and stores for it to work on."""

import json
import os
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

from geosched.supervisor.store import py_lmdb
from geosched.supervisor.store.daemondb import DaemonDB

from support.daemon import Daemon, commands
from support.paths import STORES
from support.store import add, start

FORMAT_1 = STORES / "format-1"
NOBODY = 65534
ACTIONS = 1500  # as JSON more than a pipe holds


def make_store(state_dir: Path, *ids: str, **changes: Any) -> None:
    with closing(DaemonDB.open(state_dir, map_bytes=4 * 1024**2)) as db:
        add(db, *ids, **changes)
        start(db, ids[0])


def place(daemon: Daemon) -> Path:
    return daemon.root / "state" / "daemondb"


def exported(daemon: Daemon) -> list[dict[str, Any]]:
    done = daemon.ctl("db", "export")
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def refused(daemon: Daemon, code: int, *arguments: str | Path) -> str:
    """What is said, on one line."""
    done = daemon.ctl("db", *map(str, arguments))
    assert (done.returncode, done.stdout) == (code, ""), done
    assert done.stderr.startswith("geosched-ctl: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr.removeprefix("geosched-ctl: ").rstrip("\n")


def storetools(daemon: Daemon) -> list[int]:
    """Processes that work on the store now."""
    mark = os.fsencode(daemon.root / "state")
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            words = (directory / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"geosched.supervisor.store.tools.cli" in words and mark in words:
            found.append(int(directory.name))
    return found


def asking(daemon: Daemon, *arguments: str | Path, **how: Any) -> subprocess.Popen[bytes]:
    command = [commands() / "geosched-ctl", "--config", daemon.config, "db", *arguments]
    return subprocess.Popen(command, **({"stdin": subprocess.DEVNULL} | how))


def large(daemon: Daemon) -> Daemon:
    make_store(daemon.root / "state", *(f"action {n}" for n in range(ACTIONS)))
    return daemon


def spoil_foreign(directory: Path) -> None:
    (directory / "data.mdb").unlink()
    with py_lmdb.open_environment(directory) as env, env.begin(write=True) as txn:
        txn.put(b"somebody's", b"own")
