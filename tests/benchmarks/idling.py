"""What a daemon costs that only waits, or holds back what is due."""

from collections.abc import Iterator

from figures import Figure, Line, Remark
from measuring import MEGABYTE, idle, pss_bytes
from snapshot import pulled, waiting_actions
from support.daemon import daemon_installation, entry
from support.wait import wait_for

HOUR_SECONDS = 3600
FULL, QUICK = (100_000, 60.0, 10_000, 20.0), (10_000, 10.0, 1_000, 5.0)


def bench(quick: bool) -> Iterator[Line]:
    waiting, seconds, queued, queued_seconds = QUICK if quick else FULL
    yield from _waiting(waiting, seconds, quick)
    yield from _queued(queued, queued_seconds)


def _waiting(count: int, seconds: float, quick: bool) -> Iterator[Line]:
    with pulled(waiting_actions(count)) as daemon:
        for pulls in (False, True):
            if pulls and quick:
                break  # it takes a minute
            if not pulls:
                daemon.pull_every("1h")
                what = f"{count} waiting"
            else:
                daemon.pull_every("60s")
                what = f"{count} waiting, pulling every 60 s"
            found = idle(daemon.daemon, seconds)
            goals = (None, None) if quick or pulls else (0.3, 1)
            yield Figure(f"CPU, {what}, of one core", found.cpu_percent, "%", goals[0])
            yield Figure(f"wakes, {what}", found.wakes_per_second, "/s", goals[1])
            hour = found.cpu_percent / 100 * HOUR_SECONDS
            yield Figure(f"  CPU seconds in an hour, {what}", hour, "s")
            yield Figure(f"  wakes in an hour, {what}", found.wakes_per_second * 3600, "")
        yield Figure(f"memory (PSS), {count} waiting", pss_bytes(daemon.daemon) / MEGABYTE, "MB")
    yield Remark(
        f"measured over {seconds:.0f} s and scaled; wakes are the voluntary context switches "
        "of every thread of supervisor, zygote, synchroniser and spare workers; the backend "
        "is asked over HTTP, and answers 304"
    )


def _queued(count: int, seconds: float) -> Iterator[Line]:
    """Actions that are due, all but one behind `max_running = 1`."""
    with daemon_installation() as daemon:
        sleeper = {"default": {"command": ["/bin/sleep", "3600"], "stop_grace": "1s"}}
        daemon.configure(scripts=sleeper, max_running=1, backend={"poll_interval": "60s"})
        daemon.start()
        daemon.send([entry(f"queued-{n:05}", -60, 3600) for n in range(count)])
        daemon.json("sync")
        wait_for(lambda: daemon.json("status")["queued"] == count - 1, seconds=60)
        yield Figure(f"CPU, {count} queued", idle(daemon, seconds).cpu_percent, "%", 1)
        yield Figure(f"memory (PSS), {count} queued", pss_bytes(daemon) / MEGABYTE, "MB")
