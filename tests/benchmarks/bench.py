"""Figures of a real daemon on this machine, each beside its goal: `make bench`.

    bench.py [--quick] [--only a,c] [--json FILE] [--markdown PAGE]

Measures from outside, through the commands and `/proc`; a goal that is missed is said and
fails nothing, because the machine has its share in it. Needs a C compiler: what is started
tells the time by its first instruction, not when an interpreter is ready.

Parts that FILE already holds, and that are not measured now, stay in it.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import crowd
import hostile
import idling
import lateness
import memory
import recovery
import run_costs
import snapshot
from figures import Figure, Line, machine, now, refresh, to_json, write_json
from support.installed import install

__all__ = ["Figure", "machine"]  # as bench_flash.py knows them


@dataclass(frozen=True)
class Part:
    title: str
    bench: Callable[[bool], Iterator[Line]]
    seconds_max: int


#: b is what a is compared with, so they are one part.
PARTS = {
    "a": Part("How late commands start, and other software beside it", lateness.bench, 1500),
    "c": Part("Memory, and what people wait for", memory.bench, 180),
    "d": Part("At rest", idling.bench, 420),
    "e": Part("Start and recovery", recovery.bench, 180),
    "f": Part("Snapshots of many actions", snapshot.bench, 480),
    "h": Part("Crowds: many actions due at once", crowd.bench, 1800),
    "i": Part("Among hostile processes of another user", hostile.bench, 600),
    "j": Part("What a run costs, beside the build before", run_costs.bench, 3600),
}


class TooLongError(Exception):
    """A part is given up."""


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    def give_up(number: int, frame: FrameType | None) -> None:
        raise TooLongError(f"given up after {seconds} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def measure(part: Part, quick: bool) -> tuple[dict[str, Any], bool]:
    """What the page and the file hold of a part, and whether it could be measured."""
    found: dict[str, Any] = {
        "title": part.title,
        "measured": now(),
        "load": round(os.getloadavg()[0], 1),
        "quick": quick,
    }
    lines, begun, error = [], time.monotonic(), ""
    try:
        with limited(part.seconds_max):
            for line in part.bench(quick):
                print(line, flush=True)
                lines.append(to_json(line))
    except Exception as failure:  # noqa: BLE001 - the other parts are still worth measuring
        error = f"{type(failure).__name__}: {failure}"
        lines.append({"kind": "remark", "text": f"not measured to the end: {error}"})
        print(f"  not measured to the end: {error}", flush=True)
    seconds = round(time.monotonic() - begun, 1)
    return found | {"seconds": seconds, "error": error, "lines": lines}, not error


def chosen_parts(text: str) -> list[str]:
    names = ["a" if name == "b" else name for name in text.replace(",", " ").split()]
    for name in names:
        if name not in PARTS:
            raise argparse.ArgumentTypeError(f"{name}: no such part, of {', '.join(PARTS)}")
    return sorted(set(names))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = "parts to measure, of " + ", ".join(f"{k} ({p.title})" for k, p in PARTS.items())
    parser.add_argument("--only", type=chosen_parts, default=list(PARTS), metavar="a,c", help=what)
    parser.add_argument("--quick", action="store_true", help="smaller and shorter, some 2 minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--markdown", type=Path, metavar="PAGE", help="put the figures of FILE into a page"
    )
    chosen = parser.parse_args()
    if shutil.which("cc") is None:
        raise SystemExit("cannot measure: there is no C compiler (cc)")
    if chosen.markdown and not chosen.json:
        raise SystemExit("--markdown needs --json FILE, which holds the figures")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))

    with tempfile.TemporaryDirectory(prefix="geosched-bench-") as place:
        os.environ["GEOSCHED_TEST_BIN"] = str(install(Path(place)))
        return run(chosen)


def run(chosen: argparse.Namespace) -> int:
    host = machine()
    document: dict[str, Any] = {"schemaVersion": 2, "host": host, "parts": {}}
    if chosen.json is not None and chosen.json.exists():
        before = json.loads(chosen.json.read_text())
        if before.get("host") == host:  # figures of two machines are not one run
            document["parts"] = before["parts"]
    print(", ".join(f"{key} {value}" for key, value in host.items()), flush=True)
    complete = True
    for name in chosen.only:
        print(f"\n{name}. {PARTS[name].title}", flush=True)
        document["parts"][name], whole = measure(PARTS[name], chosen.quick)
        complete &= whole
        if chosen.json is not None:
            write_json(chosen.json, document)
    if chosen.markdown is not None:
        refresh(chosen.markdown, document)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
