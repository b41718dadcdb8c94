"""`geosched-ctl db`: acknowledging, who may do what, and what cannot be done at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.daemon import Daemon, commands
from support.db import FORMAT_1, NOBODY, large, place, refused, spoil_foreign, storetools
from support.wait import wait_for

READ_VERBS = (["stats"], ["check"], ["export"])


def test_acknowledge_says_what_was_seen(stopped):
    (place(stopped) / "data.mdb").write_bytes(b"")
    stopped.start()
    (seen,) = stopped.json("status")["store"]["incidents"]
    assert stopped.json("db", "acknowledge") == {"schemaVersion": 1, "acknowledged": [seen]}
    assert stopped.json("db", "acknowledge")["acknowledged"] == []
    assert stopped.ctl("db", "acknowledge").stdout.split() == ["seen", "nothing"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("also", ["", "running"])
def test_whoever_has_no_rights_to_the_files_is_told_so(stopped, tmp_path, also):
    """A root without its privileges, because it can read this installation wherever it is."""
    if also:
        stopped.start()
    state_dir = stopped.root / "state"
    for path in (state_dir, *state_dir.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    for verb in (*READ_VERBS, ["backup", tmp_path], ["compact"], ["restore", FORMAT_1]):
        with without_privileges(stopped, *verb) as asked:
            _, said = asked.communicate(timeout=30)
        assert (asked.returncode, said[:20]) == (4, b"geosched-ctl: cannot"), (verb, said)
    assert list(tmp_path.iterdir()) == []


def without_privileges(daemon: Daemon, *verb: str | Path) -> subprocess.Popen[bytes]:
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    command = [*drop, commands() / "geosched-ctl", "--config", daemon.config, "db", *verb]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_only_operators_say_that_they_have_seen_it(stopped):
    (place(stopped) / "data.mdb").write_bytes(b"")
    stopped.start()
    stopped.root.chmod(0o755)
    (stopped.root / "run").chmod(0o755)
    (stopped.root / "run" / "control.sock").chmod(0o666)
    become = f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})"
    # All of it before: another user may not be able to read what there is to import.
    imports = "import geosched.ipc.ctl.commands.db; from geosched.ipc.ctl.main import run"
    ask = "sys.exit(run(sys.argv[1:]))"
    asked = subprocess.run(
        [
            Path(sys.executable),
            "-c",
            f"import os, sys; {imports}; {become}; {ask}",
            "--socket",
            stopped.root / "run" / "control.sock",
            *("db", "acknowledge"),
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert asked.returncode == 4, asked
    assert len(stopped.json("status")["store"]["incidents"]) == 1


@pytest.mark.parametrize("verb", [*READ_VERBS, ["backup", "copy"], ["compact"], ["restore", "/"]])
def test_where_no_daemon_ever_was_nothing_is_made(daemon, verb):
    """A lock file of ours would keep a daemon of another user out."""
    said = refused(daemon, 1, *verb)
    assert said.startswith("cannot")
    assert str(daemon.root / "state") in said
    assert not (daemon.root / "state").exists()


@pytest.mark.parametrize("verb", READ_VERBS)
def test_a_state_directory_without_a_database_stays_as_it_is(daemon, verb):
    (daemon.root / "state").mkdir()
    said = refused(daemon, 1, *verb)
    assert said == f"cannot read a database in {daemon.root}/state: there is none"
    assert list((daemon.root / "state").iterdir()) == []


@pytest.mark.parametrize("verb", READ_VERBS[1:])
def test_a_foreign_database_is_named_as_such(stopped, verb):
    spoil_foreign(place(stopped))
    done = stopped.ctl("db", *verb)
    assert done.returncode == 1
    assert "no daemonDB" in done.stdout + done.stderr


def test_bad_usage_and_a_missing_configuration_are_exit_2(daemon):
    for arguments in (["backup"], ["restore", str(daemon.root / "none")], ["stats", "more"]):
        assert "--help" in refused(daemon, 2, *arguments)
    daemon.config.unlink()
    for verb in READ_VERBS:
        said = refused(daemon, 2, *verb)
        assert said.startswith("cannot read the configuration")


def test_what_is_not_done_in_time_is_ended(daemon, tmp_path):
    large(daemon)
    said = refused(daemon, 8, "check", "--timeout", "0.01")
    assert said == "cannot check: not done within 0.01 s"
    wait_for(lambda: not storetools(daemon), what="the end of the one that checked")
    daemon.json("db", "check")
