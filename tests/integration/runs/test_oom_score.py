"""The score by which the kernel ends processes: a script is not spared because its daemon is."""

import subprocess
from collections.abc import Iterator

import pytest
from support.daemon import Daemon, entry, installation_for_everybody

#: What `OOMScoreAdjust=` of the unit does before it executes the daemon.
SPARED = ("/bin/sh", "-c", 'echo -500 >/proc/self/oom_score_adj && exec "$@"', "sh")
SAY = "cat /proc/self/oom_score_adj"
LOWER = "echo -500 >/proc/self/oom_score_adj && echo lowered"


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    tried = subprocess.run([*SPARED, "/bin/true"], capture_output=True, check=False)
    if tried.returncode or tried.stderr:
        pytest.skip("a process cannot be spared here: that takes root, and CAP_SYS_RESOURCE")
    with installation_for_everybody() as installed:
        yield installed


def said(daemon: Daemon, body: str, **conditions: object) -> list[str]:
    daemon.configure(scripts={"default": {"command": [daemon.script("s", body)]} | conditions})
    daemon.send([entry("a", -1, 3600)])
    daemon.start(by=SPARED)
    daemon.wait_status("a", "FINISHED")
    return daemon.ctl("logs", "a").stdout.splitlines()


def test_a_script_of_a_daemon_that_is_spared_is_as_any_other(daemon: Daemon):
    assert said(daemon, SAY) == ["0"]


def test_a_script_may_be_spared_like_its_daemon_where_its_settings_say_so(daemon: Daemon):
    assert said(daemon, SAY, oom_score_adj=-500) == ["-500"]


def test_a_script_of_another_user_cannot_take_the_score_of_its_daemon_back(daemon: Daemon):
    told = said(daemon, f"{SAY}; {LOWER} || {SAY}", user="nobody")
    assert [line for line in told if line.lstrip("-").isdigit()] == ["0", "0"]
    assert "lowered" not in told
