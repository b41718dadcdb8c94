"""A daemon at work whose output others remove or truncate."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon, daemon_installation, entry
from support.wait import wait_for


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as made:
        script = made.script("chatty", "while :; do echo x; sleep 0.1; done")
        settings = {"command": [script], "heartbeat_timeout": "1s", "stop_grace": "1s"}
        made.configure(scripts={"default": settings})
        yield made


def output_of(daemon: Daemon) -> Path:
    daemon.start()
    daemon.send([entry("a", -1, 600)])
    daemon.json("sync")
    daemon.wait_phase("a", "running")
    run_id = daemon.json("show", "a")["action"]["run"]["runId"]
    path = daemon.root / "log" / f"{run_id}.log"
    wait_for(lambda: path.exists() and path.stat().st_size > 4)
    return path


def lost_bytes(daemon: Daemon) -> int:
    return int(daemon.json("status")["outputLostBytes"])


def test_output_of_a_live_run_that_is_removed_with_its_directory_is_counted(daemon: Daemon):
    shutil.rmtree(output_of(daemon).parent)
    wait_for(lambda: lost_bytes(daemon) > 0)
    assert daemon.ctl("logs", "a").returncode == 1


def test_after_the_removal_of_its_file_a_live_run_writes_to_another(daemon: Daemon):
    path = output_of(daemon)
    path.unlink()
    wait_for(lambda: lost_bytes(daemon) > 0)
    wait_for(lambda: "bytes cut]\nx\n" in daemon.ctl("logs", "a").stdout)


def test_output_that_was_truncated_in_place_is_read_without_nuls(daemon: Daemon):
    path = output_of(daemon)
    os.truncate(path, 0)
    wait_for(lambda: "bytes cut]\nx\n" in daemon.ctl("logs", "a").stdout)
    assert b"\0" not in path.read_bytes()
    assert lost_bytes(daemon) == 0


def test_a_link_in_the_place_of_a_live_runs_output_is_refused(daemon: Daemon):
    path = output_of(daemon)
    secret = daemon.root / "secret"
    secret.write_text("root only\n")
    link = path.with_name("link")
    link.symlink_to(secret)
    link.rename(path)
    said = daemon.ctl("logs", "a")
    assert (said.returncode, said.stdout) == (1, "")
    wait_for(lambda: lost_bytes(daemon) > 0)  # nor is it written to
    assert secret.read_text() == "root only\n"
