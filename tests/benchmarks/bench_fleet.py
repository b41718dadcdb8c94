"""What a fleet asks of its backend, a second at a time, before, during and after an outage.

    .venv/bin/python tests/benchmarks/bench_fleet.py [--devices 1000000] [--outage 1800]

Every device is simulated by itself, with the product's own `poll_phase`, `poll_delay` and
`retry_delay`: nothing that one does changes when another asks, because a backend that is
away answers nobody and one that is back answers all. Plain arithmetic; no daemon runs.
"""

import argparse
import random
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from geosched.supervisor.periodic import poll_delay, poll_phase
from geosched.supervisor.sync.backoff import RETRY_BASE_SECONDS, retry_delay

POLL_INTERVAL_SECONDS = 60.0
START_SPLAY_SECONDS = 300.0
#: After a power cut that ends for all at once, all have booted within so long.
BOOT_SPREAD_SECONDS = 5.0
#: Before the outage, and after it: what is looked at.
BEFORE_SECONDS = 300
AFTER_SECONDS = 1500


@dataclass(slots=True)
class Load:
    """Requests in each second of the simulated time, which begins with its `begin`."""

    seconds: int
    requests: "array[int]" = field(init=False)
    back: "array[int]" = field(init=False)  # devices whose first good answer that second brought

    def __post_init__(self) -> None:
        self.requests = array("l", [0]) * self.seconds
        self.back = array("l", [0]) * self.seconds

    def peak(self, begin: int, end: int) -> int:
        return max(self.requests[begin:end])

    def mean(self, begin: int, end: int) -> float:
        return sum(self.requests[begin:end]) / (end - begin)


def steady(device: int, load: Load, down: int, up: int) -> None:
    """A device that polls in peace, meets the outage, and goes on when it is over."""
    phase = poll_phase(f"{device:016x}", POLL_INTERVAL_SECONDS)
    polls(load, poll_delay(0.0, phase, POLL_INTERVAL_SECONDS), down)
    missed = down + poll_delay(float(down), phase, POLL_INTERVAL_SECONDS)
    retries(load, missed, up, phase, 2 * POLL_INTERVAL_SECONDS)


def booted(device: int, load: Load, down: int, up: int, splay: float) -> None:
    """A device that boots into the outage, together with all others."""
    phase = poll_phase(f"{device:016x}", POLL_INTERVAL_SECONDS)
    first = random.uniform(0.0, BOOT_SPREAD_SECONDS) + random.uniform(0.0, splay)
    retries(load, down + first, up, phase, RETRY_BASE_SECONDS)


def retries(load: Load, moment: float, up: int, phase: float, base: float) -> None:
    """From its first failure on until it is answered, and polls from then on."""
    failures = 0
    while moment < up:
        load.requests[int(moment)] += 1
        moment += retry_delay(failures, random.random(), base_seconds=base)
        failures += 1
    load.requests[int(moment)] += 1
    load.back[int(moment)] += 1
    polls(load, moment + poll_delay(moment, phase, POLL_INTERVAL_SECONDS), load.seconds)


def polls(load: Load, moment: float, until: int) -> None:
    while moment < until:
        load.requests[int(moment)] += 1
        moment += POLL_INTERVAL_SECONDS


def show(name: str, load: Load, devices: int, down: int, up: int) -> None:
    last_back = max(second for second, count in enumerate(load.back) if count)
    half = next(
        second for second in range(up, load.seconds) if 2 * sum(load.back[: second + 1]) >= devices
    )
    calm = last_back + 1 + int(POLL_INTERVAL_SECONDS)
    print(f"\n{name}")
    rows = [
        ("mean load during the outage", load.mean(down, up)),
        ("peak load during the outage", load.peak(down, up)),
        ("peak load after it", load.peak(up, calm)),
        ("mean load once all are back", load.mean(calm, load.seconds)),
        ("peak load once all are back", load.peak(calm, load.seconds)),
    ]
    if down:
        rows.insert(0, ("peak load before the outage", load.peak(60, down)))
        rows.insert(0, ("mean load before the outage", load.mean(60, down)))
    for label, value in rows:
        print(f"  {label:<32} {value:>12,.0f} requests/s")
    print(f"  {'half of them are back after':<32} {half + 1 - up:>12,} s")
    print(f"  {'all are back after':<32} {last_back + 1 - up:>12,} s")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=1_000_000)
    parser.add_argument("--outage", type=int, default=1800, help="seconds")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    random.seed(options.seed)
    began = time.monotonic()
    print(
        f"{options.devices:,} devices, poll_interval {POLL_INTERVAL_SECONDS:g} s,"
        f" backend away for {options.outage} s"
    )
    load = Load(BEFORE_SECONDS + options.outage + AFTER_SECONDS)
    down, up = BEFORE_SECONDS, BEFORE_SECONDS + options.outage
    for device in range(options.devices):
        steady(device, load, down, up)
    show("A fleet that polls meets an outage", load, options.devices, down, up)
    for splay in (0.0, START_SPLAY_SECONDS):
        load = Load(options.outage + AFTER_SECONDS)
        for device in range(options.devices):
            booted(device, load, 0, options.outage, splay)
        title = f"A fleet boots within {BOOT_SPREAD_SECONDS:g} s into it, start_splay {splay:g} s"
        show(title, load, options.devices, 0, options.outage)
    print(f"\nsimulated in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
