"""What a script says, of itself and to its output, is shown and kept."""

from collections.abc import Iterator

import pytest
from support.daemon import Daemon, daemon_installation, entry
from support.wait import wait_for

LONG = 3600


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as installed:
        notify = installed.root / "notify.py"
        notify.write_text(
            "import os, socket, sys\n"
            "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
            "s.sendto(sys.argv[1].encode(), os.environ['NOTIFY_SOCKET'])\n"
        )
        says = f"python3 {notify} 'READY=1\nSTATUS=three of four'\nsleep 600"
        installed.configure(
            scripts={
                "says": {"command": [installed.script("says", says)]},
                "loud": {
                    "command": [installed.script("loud", "seq 1 100000; echo the end")],
                    "output_max": "8KiB",
                },
            }
        )
        yield installed


def test_what_a_script_says_of_itself_is_shown(daemon: Daemon):
    daemon.send([entry("a", -1, LONG, type="says")])
    daemon.start()
    daemon.wait_phase("a", "running")
    wait_for(lambda: daemon.action("a")["run"]["statusText"] == "three of four")


def test_of_long_output_the_head_and_the_tail_are_kept_and_the_cut_is_marked(daemon: Daemon):
    daemon.send([entry("a", -1, LONG, type="loud")])
    daemon.start()
    daemon.wait_status("a", "FINISHED")
    lines = daemon.ctl("logs", "a").stdout.splitlines()
    assert lines[0] == "1"
    assert lines[-1] == "the end"
    assert any(line.startswith("[geosched: ") and "bytes cut" in line for line in lines)
    assert sum(len(line) + 1 for line in lines) <= 8 * 1024
    assert daemon.ctl("logs", "a", "-n", "2").stdout.splitlines() == ["100000", "the end"]
