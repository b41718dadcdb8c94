"""`geosched-ctl init`: its options, its questions, and what it tells."""

import json
import os
import pty
import select
import shutil
import stat
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
from geosched.ipc.ctl.main import run
from support.ctl import COMMAND, environment
from support.daemon import commands
from support.second_user import SECOND_USER, needs_two_users

URL = "https://backend.example/api"
SECRET = "s3cret-token"


def test_a_first_configuration_is_one_that_check_takes(place: Path) -> None:
    config = place / "geosched.toml"
    options = ("--backend", "trpc", "--url", URL, "--secret-stdin", "--directory", place)
    done = subprocess.run(
        [COMMAND, "--config", config, "-o", "json", "init", *options],
        env=environment(),
        input=f"{SECRET}\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["schemaVersion"] == 1
    assert (told["config"], told["made"]) == (str(config), [f"{place}/token", str(config)])
    assert (told["left"], told["enabled"], told["enable"]) == ([], False, "")
    following = ["geosched-ctl --config {} doctor", "geoschedd --config {}"]
    assert told["next"] == [command.format(config) for command in following]
    assert SECRET not in config.read_text() + done.stdout + done.stderr
    checked = subprocess.run(
        [commands() / "geoschedd", "--check", "--config", config],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (checked.returncode, "all is well" in checked.stderr) == (0, True), checked.stderr


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ((), "--backend is missing"),
        (("--backend", "http"), "--url is missing"),
        (("--backend", "http", "--url", URL, "--auth", "token"), "--secret-stdin is missing"),
        (
            ("--backend", "trpc", "--url", URL, "--auth", "oauth", "--yes"),
            "--oauth-token-url, --oauth-device-url, --oauth-client-id are missing",
        ),
    ],
)
def test_without_a_terminal_it_says_what_is_missing_and_makes_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    missing: str,
) -> None:
    assert run(["--config", str(tmp_path / "etc/x.toml"), "init", *options]) == 2
    assert f"nobody is there to ask: {missing}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--set", "nothing"), "cannot use --set 'nothing': expected KEY=VALUE"),
        (("--script", "'x"), "cannot split the script"),
        (("--set", "backend.timeout=1979-05-27"), "expected a duration"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], complaint: str
) -> None:
    config = str(tmp_path / "x.toml")
    assert run(["--config", config, "init", "--backend", "file", *options]) == 2
    assert complaint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_unit_that_is_not_there_cannot_be_enabled(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(place / "geosched.toml")
    options = ("--backend", "file", "--directory", str(place), "--enable", "--script", "true x")
    assert run(["--config", config, "init", *options]) == 1
    assert "is written, but not enabled" in capsys.readouterr().err
    found = tomllib.loads(Path(config).read_text())["scripts"]["default"]["command"]
    assert found == ["true", "x"]


def test_a_person_is_asked_on_a_terminal_and_sees_no_secret(place: Path) -> None:
    terminal, side = pty.openpty()
    config = place / "geosched.toml"
    config.write_text("mine")
    command = [COMMAND, "--config", config, "init", "--directory", place / "var"]
    streams = {"stdin": side, "stdout": side, "stderr": side}
    with subprocess.Popen(
        command, **streams, env=environment(TERM="dumb"), start_new_session=True
    ) as asked:
        os.close(side)
        seen = ""
        try:
            for question, answer in (
                (f"Replace {config}?", "y"),
                ("Kind of backend", "http"),
                ("Address of the backend", URL),
                ("How to authenticate", "token"),
                ("Its text, which is not shown: ", SECRET),
            ):
                seen += until(terminal, question)
                os.write(terminal, f"{answer}\n".encode())
            seen += until(terminal, "doctor")
            assert asked.wait(20) == 0, seen
        finally:
            asked.kill()
            os.close(terminal)
    assert SECRET not in seen
    assert (place / "token").read_text() == f"{SECRET}\n"
    assert tomllib.loads(config.read_text())["backend"]["url"] == URL


def until(terminal: int, text: str) -> str:
    """What a terminal shows, up to `text`."""
    seen = ""
    deadline = time.monotonic() + 20
    while text not in seen:
        readable, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert readable, f"no {text!r} in {seen!r}"
        try:
            seen += os.read(terminal, 4096).decode(errors="replace")
        except OSError:  # who wrote to it is gone
            raise AssertionError(f"no {text!r} in {seen!r}") from None
    return seen


@needs_two_users
def test_who_is_not_root_gets_a_place_of_their_own(place: Path) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("this host has no setpriv")
    os.chown(place, SECOND_USER, SECOND_USER)
    # The code under test may be root's alone to read.
    reads = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    user = (f"--reuid={SECOND_USER}", f"--regid={SECOND_USER}", "--clear-groups")
    done = subprocess.run(
        ["setpriv", *user, *reads, COMMAND, "-o", "json", "init", "--backend", "file"],
        env=environment(HOME=str(place)),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    config = place / ".config/geosched/geosched.toml"
    assert json.loads(done.stdout)["config"] == str(config)
    assert config.stat().st_uid == SECOND_USER
    daemon = tomllib.loads(config.read_text())["daemon"]
    assert daemon["state_dir"] == f"{place}/.local/state/geosched/state"
    assert stat.S_IMODE((place / ".local/state/geosched").stat().st_mode) == 0o700
