"""`--check` finds what the first run of a script would fail of, in the words of that run."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon, commands, daemon_installation, entry, installation_for_everybody
from support.mounts import mounted
from support.wait import wait_for

SCRIPTS = {
    "cr-lf": (b"#!/bin/sh\r\necho x\r\n", "its first line ends with CR LF: #!/bin/sh\\r"),
    "no-line": (b"echo x\n", "it is no executable and has no #! line"),
    "empty": (b"", "it is empty"),
    "missing": (b"#!/no/such\n", "the interpreter in its first line, /no/such: no such file"),
    "relative": (b"#!no-such\n", "the interpreter in its first line, no-such: no such file"),
}


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with daemon_installation() as made:
        yield made


def check(daemon: Daemon) -> tuple[int, str]:
    done = subprocess.run(
        [commands() / "geoschedd", "--config", daemon.config, "--check"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def detail_of_a_run(daemon: Daemon, kind: str) -> str:
    daemon.send([entry(kind, -1, 60, type=kind)])
    daemon.json("sync")
    shown = daemon.wait_phase(kind, "done")
    assert (shown["executionStatus"], shown["reason"]) == ("FAILED", "cannot-start")
    return str(shown["detail"])


def test_a_check_and_a_run_say_the_same_of_an_unusable_script(daemon: Daemon) -> None:
    scripts = {name: written(daemon.root / name, SCRIPTS[name][0]) for name in SCRIPTS}
    daemon.configure(scripts={name: {"command": [str(path)]} for name, path in scripts.items()})
    code, said = check(daemon)
    assert code == 2
    daemon.start()
    for name, (_, reason) in SCRIPTS.items():
        line = f"scripts.{name}.command: {scripts[name]} cannot be executed: {reason}"
        assert line in said
        wait_for(lambda line=line: line in daemon.log_text(), what=line)
        assert detail_of_a_run(daemon, name) == f"cannot start {scripts[name]}: {reason}"


def test_a_script_that_its_user_cannot_reach_is_found(daemon: Daemon) -> None:
    with installation_for_everybody() as shared:
        hidden = shared.root / "hidden"
        hidden.mkdir(mode=0o700)
        script = written(hidden / "s", b"#!/bin/sh\n")
        shared.configure(scripts={"a": {"command": [str(script)], "user": "nobody"}})
        reason = f"{hidden} cannot be entered by user nobody"
        assert check(shared) == (
            2,
            f"geoschedd: {shared.config}: scripts.a.command: {script} cannot be executed:"
            f" {reason}\n",
        )
        shared.start()
        assert detail_of_a_run(shared, "a") == f"cannot start {script}: {reason}"


def test_a_script_on_a_file_system_without_programs_is_found(daemon: Daemon) -> None:
    place = daemon.root / "noexec"
    with mounted(place, "-t", "tmpfs", "-o", "noexec", "none"):
        script = written(place / "s", b"#!/bin/sh\n")
        daemon.configure(scripts={"a": {"command": [str(script)]}})
        code, said = check(daemon)
        assert (code, "mounted with noexec" in said) == (2, True)
        daemon.start()
        assert "mounted with noexec" in detail_of_a_run(daemon, "a")
        assert daemon.terminate() == 0


def test_a_script_that_somebody_writes_is_told(daemon: Daemon) -> None:
    script = written(daemon.root / "s", b"#!/bin/sh\n")
    daemon.configure(scripts={"a": {"command": [str(script)]}})
    daemon.start()
    writer = os.open(script, os.O_WRONLY)
    try:
        assert "open for writing" in detail_of_a_run(daemon, "a")
    finally:
        os.close(writer)
