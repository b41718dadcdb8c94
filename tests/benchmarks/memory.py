"""Memory: of a daemon that waits, and what each running action adds."""

import statistics
from collections.abc import Iterator

from figures import Figure, Line, Remark
from measuring import (
    MEGABYTE,
    REST_SECONDS,
    build_stamp,
    cpu_seconds,
    idle,
    kill_all,
    merging,
    pss_bytes_at_rest,
    wall_seconds,
)
from support.daemon import Daemon, daemon_installation, entry
from support.wait import wait_for

#: Actions waiting, actions running, seconds to rest, seconds idle.
FULL, QUICK = (10_000, 100, REST_SECONDS, 10.0), (2_000, 20, REST_SECONDS, 5.0)


def bench(quick: bool) -> Iterator[Line]:
    waiting, running, rest_seconds, idle_seconds = QUICK if quick else FULL
    with daemon_installation() as daemon:
        stamp = build_stamp(daemon.root)
        command = [str(stamp), str(daemon.root / "stamps"), "3600", "{id}"]
        daemon.configure(
            scripts={"default": {"command": command, "stop_grace": "1s"}},
            backend={"poll_interval": "60s", "max_actions": 2 * waiting},
            max_running=running,
        )
        daemon.start()
        daemon.json("sync")
        actions = [entry(f"waits-{n:05}", 86_400 + n, 90_000 + n) for n in range(waiting)]
        used = cpu_seconds(daemon)
        _sent(daemon, actions, "NULL", waiting)
        used = cpu_seconds(daemon) - used
        yield Figure(f"CPU to pull, store and schedule {waiting} actions (file)", used, "s")
        before = pss_bytes_at_rest(daemon, rest_seconds)
        goal = None if quick else 40
        yield Figure(f"memory (PSS), {waiting} waiting", before / MEGABYTE, "MB", goal)
        walls = [wall_seconds(daemon, "status") for _ in range(5)]
        yield Figure(f"geosched-ctl status, {waiting} waiting", statistics.median(walls), "s")
        percent = idle(daemon, idle_seconds).cpu_percent
        yield Figure(f"CPU, {waiting} waiting, {idle_seconds:.0f} s", percent, "%")
        now = [entry(f"runs-{n:03}", -1, 3600) for n in range(running)]
        _sent(daemon, actions + now, "STARTED", running)
        each = (pss_bytes_at_rest(daemon, rest_seconds) - before) / running
        kill_all(daemon)
        yield Figure(
            f"memory (PSS) per running action, {running} running", each / MEGABYTE, "MB", 2
        )
        yield Remark(
            "of supervisor, zygote, synchroniser and workers, without the scripts; "
            f"poll_interval 60 s; the kernel's merging of alike pages is {merging()}"
        )


def _sent(daemon: Daemon, actions: list[dict[str, object]], status: str, count: int) -> None:
    daemon.send(actions)
    daemon.json("sync")
    wait_for(
        lambda: daemon.json("status")["counts"][status] == count, seconds=60, what=f"all {status}"
    )
