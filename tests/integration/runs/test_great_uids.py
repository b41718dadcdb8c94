"""Scripts of users whose numbers do not fit a signed integer."""

import os
import subprocess
import sys

import pytest
from geosched.workers.runs.notify import Notice, NotifySocket
from support.wait import wait_for

UID = 4_000_000_000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_notification_of_a_great_uid_that_has_ended_is_of_its_user():
    notify = NotifySocket(belongs=lambda _: False)
    try:
        notify.admit(UID)
        code = (
            "import os, socket, sys;"
            "uid = int(sys.argv[2]); os.setgroups([]); os.setresuid(uid, uid, uid);"
            "told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM);"
            "told.sendto(b'STATUS=here', chr(0) + sys.argv[1])"
        )
        name = notify.address.removeprefix("@")
        subprocess.run([sys.executable, "-c", code, name, str(UID)], check=True)
        heard: list[Notice] = wait_for(notify.drain)
        assert heard == [Notice(status="here")]
        assert notify.refused == 0
    finally:
        notify.close()
