"""Commands of a trial: each with a bound of time, and its words where it fails."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .report import CommandError, UntriedError

Done = subprocess.CompletedProcess[str]


def ask(
    *command: str | Path, seconds: float = 60, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run it, whatever it makes of that."""
    return subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        env=os.environ | (env or {}),
        check=False,
    )


def run(*command: str | Path, seconds: float = 60, env: Mapping[str, str] | None = None) -> str:
    """What it said; raises `CommandError` where it failed."""
    done = ask(*command, seconds=seconds, env=env)
    if done.returncode:
        raise CommandError(done)
    return done.stdout


def need(*programs: str) -> None:
    """Raises `UntriedError`, with all that is missing."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if missing := [program for program in programs if shutil.which(program, path=path) is None]:
        raise UntriedError(f"this machine lacks {', '.join(missing)}")
    if os.geteuid() != 0:
        raise UntriedError("only root can do this")
