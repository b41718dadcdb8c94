"""Scripts of users whose numbers do not fit a signed integer."""

import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from geosched.ipc.paths import Runtime
from geosched.workers.runfiles.processes import make_directories
from geosched.workers.runs.notify import Notice, NotifySocket
from support.wait import wait_for

UID = 4_000_000_000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_notification_of_a_great_uid_that_has_ended_is_of_its_user():
    with tempfile.TemporaryDirectory(prefix="gs-", dir="/tmp") as place:
        runtime = Runtime(Path(place))
        make_directories(runtime)
        path = runtime.notify_socket(os.getpid())
        notify = NotifySocket(path, UID, select.poll(), belongs=lambda _: False)
        try:
            code = (
                "import os, socket, sys;"
                "uid = int(sys.argv[2]); os.setgroups([]); os.setresuid(uid, uid, uid);"
                "told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM);"
                "told.sendto(b'STATUS=here', sys.argv[1])"
            )
            command = [sys.executable, "-c", code, notify.address, str(UID)]
            subprocess.run(command, check=True)
            heard: list[Notice] = wait_for(notify.drain)
            assert heard == [Notice(status="here")]
            assert notify.refused == 0
        finally:
            notify.close()
