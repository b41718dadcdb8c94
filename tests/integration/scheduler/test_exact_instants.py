"""Edges are decided a moment ahead, and nothing is ever early: scripts tell what time it is."""

from collections.abc import Iterator
from datetime import datetime

import pytest
from support.daemon import Daemon, daemon_installation, entry
from support.processes import armed_workers, is_idle, prepared_workers
from support.wait import wait_for

TOGETHER = 30
#: Without a process of its own for the time: what is early by less than the shell takes to
#: begin would pass.
TELLS = """trap 'echo end {id} ${{EPOCHREALTIME/./}} >> {file}; exit 0' TERM
echo begin {id} ${{EPOCHREALTIME/./}} >> {file}
sleep 600 & wait $!"""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        body = TELLS.format(id="$GEOSCHED_ACTION_ID", file=installed.root / "told")
        installed.configure(
            scripts={
                "default": {
                    "command": ["/bin/bash", installed.script("tells", body)],
                    "stop_grace": "9s",
                }
            },
            max_running=TOGETHER,
        )
        yield installed


def told(daemon: Daemon, word: str) -> dict[str, int]:
    """What time it was, in microseconds, by the scripts' own lines."""
    path = daemon.root / "told"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return {line[1]: int(line[2]) for line in lines if line[0] == word}


def at_us(instant: str) -> int:
    return round(datetime.fromisoformat(instant).timestamp() * 1000) * 1000


def test_nothing_begins_before_its_window_however_much_begins_at_once(daemon: Daemon):
    actions = [entry(f"a{number}", 4, 3600) for number in range(TOGETHER)]
    daemon.send(actions)
    daemon.start()
    begun = wait_for(
        lambda: (told_now := told(daemon, "begin")) and len(told_now) == TOGETHER and told_now,
        seconds=20,
        what=f"all to begin: {daemon.log_text()}",
    )
    for action in actions:
        assert begun[action["id"]] >= at_us(action["fromDate"])
        (change,) = daemon.json("show", action["id"])["runs"]
        assert change["startedAt"] >= action["fromDate"]


def test_nothing_is_told_to_stop_before_its_window_is_over(daemon: Daemon):
    actions = [entry(f"a{number}", -1, 5) for number in range(5)]
    daemon.send(actions)
    daemon.start()
    ended = wait_for(
        lambda: (told_now := told(daemon, "end")) and len(told_now) == 5 and told_now,
        seconds=20,
        what=f"all to be told: {daemon.log_text()}",
    )
    for action in actions:
        assert ended[action["id"]] >= at_us(action["toDate"])


def test_as_many_workers_fork_ahead_as_starts_are_near_and_spare_ones_do_not(daemon: Daemon):
    daemon.start()
    (spare,) = wait_for(lambda: armed_workers(daemon))
    wait_for(lambda: is_idle(spare), what="a worker that waits")
    assert prepared_workers(daemon) == []
    daemon.send([entry(f"a{number}", 4, 3600) for number in range(2)])
    prepared = wait_for(lambda: len(found := prepared_workers(daemon)) == 2 and found)
    wait_for(lambda: armed_workers(daemon) == [spare, *(worker for worker, _ in prepared)])
    begun = wait_for(lambda: len(told(daemon, "begin")) == 2 and daemon.actions())
    scripts = {action["run"]["scriptPid"] for action in begun.values()}
    assert scripts == {ahead for _, ahead in prepared}
    assert armed_workers(daemon) == [spare]
