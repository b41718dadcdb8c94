"""The tests of unit and integration in trees of other platforms, on this kernel."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import trees
from .commands import need
from .report import CommandError, Trial

SUITE_SECONDS_MAX = 3600
BUILD_SECONDS_MAX = 1800
SUMMARY = re.compile(r"^=* ?((?:\d+ \w+(?:, )?)+) in [\d.]+s", re.MULTILINE)
#: What builds the wheels that PyPI has not for it; lmdb's sources are patched by `patch`.
BUILD = ("python3", "python3-venv", "python3-dev", "gcc", "g++", "libc6-dev", "patch", "make")
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
TOOLS = ("procps", "git", "util-linux", "iproute2")


@dataclass(frozen=True)
class Place:
    part: str
    title: str
    suite: str
    arch: str
    personality: str
    packages: tuple[str, ...]


CHROOTS = (Place("i386", "i386 in a chroot", "bookworm", "i386", "linux32", (*BUILD, *TOOLS)),)


def run(trial: Trial, place: Place) -> None:
    """Raises `UntriedError`."""
    need("debootstrap", place.personality)
    tree = trees.tree(place.part, place.suite, place.packages, place.arch)
    with trees.copy(tree, place.part) as copied:
        trees.give_checkout(copied)
        venv = f"cd {trees.CHECKOUT} && python3 -m venv .venv"
        install = f"cd {trees.CHECKOUT} && {place.personality} .venv/bin/pip install -q"
        with trial.step("everything that is needed is built"):
            trees.chroot(copied, venv, seconds=300)
            # As this machine's pip has it: behind some proxies the usual authorities do not do.
            shutil.copy(os.environ.get("PIP_CERT", AUTHORITIES), copied / "root/authorities.pem")
            trees.chroot(
                copied,
                "export PIP_CERT=/root/authorities.pem;"
                f" {install} --require-hashes -r requirements/dev.txt"
                f" && .venv/bin/pip install -q --no-deps --no-build-isolation -e .",
                seconds=BUILD_SECONDS_MAX,
            )
        bits = "import struct; print(8 * struct.calcsize('P'), 'bits')"
        said = trees.chroot(
            copied, f'cat /etc/debian_version; python3 --version; python3 -c "{bits}"'
        )
        trial.versions += said.splitlines()
        for suite in ("unit", "integration"):
            with trial.step(suite):
                _suite(trial, place, copied, suite)


def _suite(trial: Trial, place: Place, copied: Path, suite: str) -> None:
    command = f"cd {trees.CHECKOUT} && {place.personality} .venv/bin/python -m pytest -q -n0"
    try:
        said = trees.chroot(
            copied, f"{command} tests/{suite}", seconds=SUITE_SECONDS_MAX, devices=True
        )
    except CommandError as error:
        trial.log.write(error.output)
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", error.output, re.MULTILINE)
        found = SUMMARY.search(error.output)
        summary = found[1] if found else error.output[-300:]
        raise AssertionError(f"{summary}: {' '.join(failed)}") from None
    found = SUMMARY.search(said)
    trial.notes.append(f"{suite}: {found[1] if found else 'no summary'}")
