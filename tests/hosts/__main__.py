"""Trials on whole hosts: `make hosts [ONLY=systemd-13,powercut-xfs] [TABLE=docs/hosts.md]`.

Each part is a row of the table: green, red, or untried because this machine lacks something. It
leaves with 1 where one is red. Trees and logs stay below `HOSTS_DIR`, so that the next time is
shorter.
"""

import argparse
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from . import inits, powercuts, trees
from .report import Trial, UntriedError, table, trial, write_table

#: Hosts that there is no trial for yet, so that the table names them.
UNTRIED = (
    ("i386", "i386 in a chroot", "no trial yet: libraries of some tests are built by Rust there"),
    ("armhf", "armhf, emulated", "no trial yet"),
    ("musl", "musl", "no trial yet"),
    ("python-3.14", "Python 3.14 of Debian's sid", "no trial yet"),
    ("machine", "virtual machines: clock at 2000, 128 MB, volatile cache", "no trial yet"),
    ("procd", "OpenWrt, procd", "no OpenWrt can be had"),
)


def _untried(_trial: Trial, reason: str) -> None:
    raise UntriedError(reason)


Part = tuple[str, Callable[[Trial], None]]
PARTS: dict[str, Part] = {
    **{name: (init.title, partial(inits.run, init=init)) for name, init in inits.INITS.items()},
    **{
        f"powercut-{kind}": (f"power cuts, {kind}", partial(powercuts.run, kind=kind))
        for kind in powercuts.KINDS
    },
    **{name: (title, partial(_untried, reason=reason)) for name, title, reason in UNTRIED},
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make hosts", description=__doc__)
    parser.add_argument("--only", default="", help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--table", type=Path, help="the document whose table is written anew")
    options = parser.parse_args()
    wanted = [name for name in options.only.replace(",", " ").split() if name] or list(PARTS)
    if unknown := [name for name in wanted if name not in PARTS]:
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    # Whoever ends it ends the hosts that are on, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    trees.PLACE.mkdir(parents=True, exist_ok=True)
    done = []
    for name in wanted:
        title, run = PARTS[name]
        with trial(name, title, trees.PLACE) as made:
            run(made)
        done.append(made)
        print(f"{name}: {made.result}", flush=True)
    rows = [made.row() for made in done]
    where = f"Tried on {time.strftime('%d %B %Y', time.gmtime())}: {machine()}."
    print(f"\n{where}\n\n{table(rows)}")
    if options.table:
        write_table(options.table, where, rows)
    return int(any(made.result == "red" for made in done))


def machine() -> str:
    return f"Linux {platform.release().split('-')[0]}, {platform.machine()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    sys.exit(main())
