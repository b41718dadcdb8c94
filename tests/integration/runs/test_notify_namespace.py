"""Notifications of a script that leaves the network namespace of its worker."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support.daemon import Daemon, daemon_installation, entry
from support.wait import wait_for

#: Connects, then goes on in a network namespace of its own, and tells by the connection, or
#: by the address: "reached" or why not.
SCRIPT = """#!{python}
import os, socket, subprocess, sys, time
address = os.environ["NOTIFY_SOCKET"]
before = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
before.connect(address)
inside = '''
import os, socket, sys, time
address = os.environ["NOTIFY_SOCKET"]
try:
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"STATUS=by its address", address)
    print("reached", flush=True)
except OSError as error:
    print(type(error).__name__, flush=True)
time.sleep(2)  # longer than a heartbeat: both are to be seen
socket.socket(fileno=int(sys.argv[1])).send(b"STATUS=by a connection")
'''
command = ["unshare", "--net", sys.executable, "-c", inside, str(before.fileno())]
subprocess.run(command, pass_fds=[before.fileno()])
sys.stdout.flush()
time.sleep(600)
"""


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    if os.geteuid() != 0 or subprocess.run(["unshare", "--net", "true"], check=False).returncode:
        pytest.skip("this host does not let us make a network namespace")
    with daemon_installation() as made:
        script = made.root / "s"
        script.write_text(SCRIPT.format(python=os.path.realpath(sys.executable)))
        script.chmod(0o755)
        settings = {"command": [str(script)], "stop_grace": "0s", "heartbeat_timeout": "1s"}
        made.configure(scripts={"default": settings})
        yield made


def test_the_address_and_a_connection_made_before_reach_the_worker(daemon: Daemon):
    daemon.start()
    daemon.send([entry("a", -1, 600)])
    daemon.wait_phase("a", "running")

    def text() -> object:
        action = daemon.action("a")
        return action and action["run"]["statusText"]

    wait_for(lambda: text() == "by its address")
    wait_for(lambda: text() == "by a connection")
    assert daemon.ctl("logs", "a").stdout == "reached\n"
