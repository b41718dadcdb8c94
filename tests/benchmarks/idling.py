"""What a daemon costs that only waits, or holds back what is due."""

from collections.abc import Iterator

from figures import Figure, Line, Remark
from measuring import MEGABYTE, idle, pss_bytes_at_rest, rest
from snapshot import pulled, waiting_actions
from support.daemon import Daemon, daemon_installation, entry
from support.wait import wait_for

HOUR_SECONDS = 3600
BETWEEN_PULLS_SECONDS, PULLING_SECONDS = 40.0, 60.0


def bench(quick: bool) -> Iterator[Line]:
    if quick:
        yield from _waiting(10_000, (("1h", "between pulls", 8.0, None, None),))
        return
    yield from _waiting(
        100_000,
        (
            ("1h", "between pulls", BETWEEN_PULLS_SECONDS, 0.3, 1),
            ("60s", "a pull a minute", PULLING_SECONDS, None, None),
        ),
    )
    yield from _queued(10_000, 10.0)


#: poll_interval, what it is to a reader, how long it is watched, goals of CPU and of wakes.
Watch = tuple[str, str, float, float | None, float | None]


def _waiting(count: int, watches: tuple[Watch, ...]) -> Iterator[Line]:
    with pulled(waiting_actions(count)) as found:
        for interval, when, seconds, cpu_goal, wakes_goal in watches:
            found.pull_every(interval)
            _wait_for_backup(found.daemon)
            if when == "between pulls":
                memory = pss_bytes_at_rest(found.daemon) / MEGABYTE
                yield Figure(f"memory (PSS), {count} waiting", memory, "MB")
            else:
                rest(found.daemon)
            seen = idle(found.daemon, seconds)
            hour = seen.cpu_percent / 100 * HOUR_SECONDS
            what = f"{count} waiting, {when}"
            yield Figure(f"CPU of one core, {what}", seen.cpu_percent, "%", cpu_goal)
            yield Figure(f"wakes, {what}", seen.wakes_per_second, "/s", wakes_goal)
            yield Figure(f"  CPU seconds in an hour, {what}", hour, "s")
            yield Figure(f"  wakes in an hour, {what}", seen.wakes_per_second * HOUR_SECONDS, "")
            yield Remark(f"{what}: watched for {seconds:.0f} s, and scaled")
    yield Remark(
        "wakes are the voluntary context switches of every thread of supervisor, zygote, "
        "synchroniser and spare workers; the backend is asked over HTTP, and answers 304"
    )


def _wait_for_backup(daemon: Daemon) -> None:
    """What has changed is backed up once a day, the first time a minute after a start."""
    wait_for(lambda: daemon.json("status")["store"]["lastBackupAt"], seconds=120, what="the backup")


def _queued(count: int, seconds: float) -> Iterator[Line]:
    """Actions that are due, all but one behind `max_running = 1`."""
    with daemon_installation() as daemon:
        sleeper = {"default": {"command": ["/bin/sleep", "3600"], "stop_grace": "1s"}}
        daemon.configure(scripts=sleeper, max_running=1, backend={"poll_interval": "60s"})
        daemon.start()
        daemon.send([entry(f"queued-{n:05}", -60, 3600) for n in range(count)])
        daemon.json("sync")
        wait_for(lambda: daemon.json("status")["queued"] == count - 1, seconds=60)
        rest(daemon)
        yield Figure(f"CPU, {count} queued", idle(daemon, seconds).cpu_percent, "%", 1)
        memory = pss_bytes_at_rest(daemon) / MEGABYTE
        yield Figure(f"memory (PSS), {count} queued", memory, "MB")
