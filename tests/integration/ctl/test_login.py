"""`geosched-ctl login`: the device authorization grant against a real token server."""

import json
import os
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from geosched.ipc.messages.login import CodeGiven, LoggedIn, NotLoggedIn, Said, Why
from geosched.ipc.messages.sync import BackendAddress
from geosched.workers.host.privileges import UNNAMED_UID
from geosched.workers.sync.auth import device_flow
from geosched.workers.sync.base import ExchangeError
from support.backend import BackendServer, address
from support.daemon import Daemon, commands, daemon_installation, entry
from support.oauth import ACCESS, DEVICE, REFRESH, Answer, OAuthServer, kept_tokens
from support.second_user import SECOND_USER
from support.wait import wait_for

PENDING: Answer = (400, {"error": "authorization_pending"})
SLOW_DOWN: Answer = (429, {"error": "slow_down"})
GIVEN = {"device_code": "x", "user_code": "y", "verification_uri": "https://a.example"}
WAIT_SECONDS = 600.0


@pytest.fixture
def oauth() -> Iterator[OAuthServer]:
    with OAuthServer() as running:
        yield running


@pytest.fixture
def where(oauth: OAuthServer, tmp_path: Path) -> BackendAddress:
    client = oauth.client(scope="openid offline_access", audience="https://backend.example/")
    return address(token_file=str(tmp_path / "tokens.json"), **client)


def pauses_of(where: BackendAddress, oauth: OAuthServer, *answers: Answer) -> list[float]:
    """Log in with these answers to the code's own request and to the polls after it."""
    pauses: list[float] = []
    oauth.answers = list(answers)
    device_flow.log_in(where, WAIT_SECONDS, lambda _: None, pauses.append)
    return pauses


def outcome_of(where: BackendAddress, seconds: float = WAIT_SECONDS) -> Said:
    """The last thing that is said."""
    said: list[Said] = []
    assert device_flow.run(where, seconds, said.append) is isinstance(said[-1], LoggedIn)
    return said[-1]


def device(oauth: OAuthServer, **fields: Any) -> Answer:
    return 200, {**oauth._device(), **fields}


# --- the grant ---------------------------------------------------------------------------


def test_a_person_is_shown_a_code_and_the_tokens_are_kept_for_the_owner_only(
    where: BackendAddress, oauth: OAuthServer
) -> None:
    said: list[Said] = []
    oauth.confirmed = True
    assert device_flow.run(where, WAIT_SECONDS, said.append)
    assert said == [
        CodeGiven(
            "https://login.example/activate",
            "https://login.example/activate?user_code=ABCD-EFGH",
            "ABCD-EFGH",
            60,
        ),
        LoggedIn(where.token_file, True),
    ]
    assert oauth.forms == [
        {
            "path": "/device",
            "client_id": "device-1",
            "scope": "openid offline_access",
            "audience": "https://backend.example/",
        },
        {
            "path": "/token",
            "grant_type": device_flow.DEVICE_CODE_GRANT,
            "device_code": DEVICE,
            "client_id": "device-1",
        },
    ]
    kept = kept_tokens(Path(where.token_file))
    assert (kept["access_token"], kept["refresh_token"]) == (f"{ACCESS}-1", f"{REFRESH}-1")
    assert stat.S_IMODE(Path(where.token_file).stat().st_mode) == 0o600


def test_the_server_sets_the_pace_and_slow_down_lasts(
    where: BackendAddress, oauth: OAuthServer
) -> None:
    oauth.confirmed, oauth.valid_seconds = True, 600
    given = device(oauth, interval=2)
    answers = (given, PENDING, SLOW_DOWN, PENDING, SLOW_DOWN, PENDING)
    assert pauses_of(where, oauth, *answers) == [2, 2, 7, 7, 12, 12]


@pytest.mark.parametrize(
    ("interval", "pause"),
    [(None, 5), (0, 1), (-3, 1), ("3", 3), (1e9, 60), (0.5, 1), ("nan", 5), ("inf", 60)],
)
def test_a_pace_that_is_none_is_bounded(
    interval: Any, pause: float, where: BackendAddress, oauth: OAuthServer
) -> None:
    oauth.confirmed, oauth.valid_seconds = True, 600
    status, fields = device(oauth)
    assert isinstance(fields, dict)
    named = {key: value for key, value in fields.items() if key != "interval"}
    named |= {} if interval is None else {"interval": interval}
    assert pauses_of(where, oauth, (status, named)) == [pause]


def test_a_network_that_comes_and_goes_slows_the_login_down_and_does_not_end_it(
    where: BackendAddress, oauth: OAuthServer
) -> None:
    oauth.confirmed, oauth.valid_seconds = True, 600
    answers = (device(oauth, interval=2), (0, b""), (503, b""), PENDING)
    assert pauses_of(where, oauth, *answers) == [2, 4, 8, 8]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((403, {"error": "access_denied"}), Why.DENIED),
        ((403, {"error": "expired_token"}), Why.NOT_CONFIRMED),
        ((400, {"error": "invalid_grant"}), Why.DENIED),
        ((400, {"error": "invalid_request"}), Why.FAILED),
        ((200, b"<html>Welcome"), Why.FAILED),
        ((200, {"access_token": "x"}), Why.FAILED),
    ],
)
def test_a_login_that_cannot_come_to_be_ends_at_once_and_keeps_nothing(
    answer: Answer, why: Why, where: BackendAddress, oauth: OAuthServer
) -> None:
    oauth.answers = [device(oauth), answer]
    outcome = outcome_of(where)
    assert isinstance(outcome, NotLoggedIn)
    assert outcome.why is why
    assert outcome.detail.startswith("cannot ")
    assert "s3cret" not in outcome.detail
    assert not Path(where.token_file).exists()


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}),
        (200, b"<html>"),
        (200, {"device_code": "x"}),
        (200, GIVEN | {"expires_in": "nan"}),
        (200, GIVEN | {"expires_in": -1}),
        (403, {"error": "unauthorized_client", "error_description": "not for devices"}),
        (404, b""),
        (0, b""),
    ],
)
def test_a_server_that_gives_no_code_is_named(
    answer: Answer, where: BackendAddress, oauth: OAuthServer
) -> None:
    oauth.answers = [answer]
    outcome = outcome_of(where)
    assert isinstance(outcome, NotLoggedIn)
    assert oauth.url_of("/device") in outcome.detail


def test_a_code_that_nobody_confirms_ends_with_its_time(
    where: BackendAddress, oauth: OAuthServer
) -> None:
    oauth.valid_seconds = 1.5
    outcome = outcome_of(where)
    assert isinstance(outcome, NotLoggedIn)
    assert outcome.why is Why.NOT_CONFIRMED


def test_tokens_that_cannot_be_kept_are_found_out_before_anybody_is_asked(
    where: BackendAddress, oauth: OAuthServer, tmp_path: Path
) -> None:
    (tmp_path / "tokens.json.lock").mkdir()
    with pytest.raises(ExchangeError, match="cannot keep new tokens"):
        device_flow.log_in(where, WAIT_SECONDS, lambda _: None)
    assert oauth.forms == []


# --- the command -------------------------------------------------------------------------


@pytest.fixture
def installed(oauth: OAuthServer) -> Iterator[Daemon]:
    with daemon_installation() as daemon:
        yield daemon


def configure(daemon: Daemon, oauth: OAuthServer, url: str = "http://127.0.0.1:9") -> None:
    daemon.configure(
        scripts={"default": {"command": ["sleep", "60"]}},
        backend={
            "kind": "http",
            "url": url,
            "poll_interval": "1h",
            "token_file": "tokens.json",
            **oauth.settings(),
        },
    )


def test_login_shows_where_to_go_and_the_daemon_pulls_with_the_tokens(
    installed: Daemon, oauth: OAuthServer
) -> None:
    with BackendServer(token="none yet") as server:
        server.set_actions([entry("a", 100, 200)])
        oauth.issued = lambda token: setattr(server, "token", token)
        configure(installed, oauth, server.url)
        installed.start()
        error = wait_for(
            lambda: installed.json("status")["backend"]["lastError"], what="a pull that fails"
        )
        assert "log in with geosched-ctl login" in error
        threading.Timer(0.1, setattr, (oauth, "confirmed", True)).start()
        done = installed.ctl("login")
        assert done.returncode == 0, done.stderr
        lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line]
        assert ["open", "https://login.example/activate?user_code=ABCD-EFGH"] in lines
        assert ["code", "ABCD-EFGH"] in lines
        assert ["tokens", f"kept in {installed.root}/tokens.json"] in lines
        assert "s3cret" not in done.stdout + done.stderr
        installed.json("sync")  # or a poll was there before it
        assert installed.action("a") is not None
        assert "s3cret" not in installed.log_text()


@pytest.mark.parametrize("output", ["json", "jsonl"])
def test_login_speaks_json_too(output: str, installed: Daemon, oauth: OAuthServer) -> None:
    configure(installed, oauth)
    oauth.confirmed, oauth.refreshable = True, False
    done = installed.ctl("-o", output, "login")
    assert done.returncode == 0, done.stderr
    documents = [done.stdout] if output == "json" else done.stdout.splitlines()
    assert json.loads(documents[-1]) == {
        "schemaVersion": 1,
        "event": "logged-in",
        "tokenFile": f"{installed.root}/tokens.json",
        "renewable": False,
    }
    assert "no refresh token" in done.stderr
    if output == "json":
        assert "activate?user_code=ABCD-EFGH and confirm the code ABCD-EFGH" in done.stderr
    else:
        code = json.loads(documents[0])
        assert (code["event"], code["userCode"]) == ("code", "ABCD-EFGH")


@pytest.mark.parametrize(
    ("confirmed", "arguments", "code", "complaint"),
    [
        (False, [], 4, "cannot log in: it was denied"),
        (None, ["--timeout", "1"], 8, "cannot log in: the code was not confirmed"),
    ],
)
def test_the_exit_code_says_why_nobody_is_logged_in(
    confirmed: bool | None,
    arguments: list[str],
    code: int,
    complaint: str,
    installed: Daemon,
    oauth: OAuthServer,
) -> None:
    configure(installed, oauth)
    oauth.confirmed = confirmed
    done = installed.ctl(*arguments, "login")
    assert done.returncode == code
    assert done.stderr.startswith(f"geosched-ctl: {complaint}")
    assert len(done.stderr.splitlines()) == 1


def test_a_token_server_that_is_away_is_a_failure(installed: Daemon, oauth: OAuthServer) -> None:
    configure(installed, oauth)
    oauth.answers = [(0, b"")]
    done = installed.ctl("login")
    assert done.returncode == 1
    assert done.stderr.startswith("geosched-ctl: cannot log in: cannot ")
    assert oauth.url_of("/device") in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('auth = "oauth"', 'auth = "oath"', "backend.auth: expected one of"),
        ("oauth_device_url", "#", "backend.oauth_device_url: a login needs it"),
        ("[backend]", "[backend", "at line"),
    ],
)
def test_a_configuration_without_a_login_is_a_mistake_of_usage(
    old: str, new: str, reason: str, installed: Daemon, oauth: OAuthServer
) -> None:
    configure(installed, oauth)
    installed.config.write_text(installed.config.read_text().replace(old, new))
    done = installed.ctl("login")
    assert done.returncode == 2
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_backend_with_a_token_file_of_others_has_no_login(
    installed: Daemon, oauth: OAuthServer
) -> None:
    installed.configure(scripts={"default": {"command": ["true"]}})
    done = installed.ctl("login")
    assert done.returncode == 2
    assert 'a login needs backend.auth = "oauth"' in done.stderr


def test_a_login_that_is_interrupted_leaves_nothing_behind(
    installed: Daemon, oauth: OAuthServer
) -> None:
    configure(installed, oauth)
    running = subprocess.Popen(
        [commands() / "geosched-ctl", "--config", installed.config, "login"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert running.stdout is not None
    assert running.stdout.readline()
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does
    _, complaint = running.communicate(timeout=10)
    assert running.returncode == 130
    assert complaint.strip() == b""
    assert not (installed.root / "tokens.json").exists()


@pytest.mark.parametrize("owner", ["root", "the daemon's user", "somebody"])
def test_a_login_by_root_keeps_the_tokens_for_the_user_of_the_daemon_and_for_nobody_else(
    owner: str, installed: Daemon, oauth: OAuthServer
) -> None:
    """The user of the daemon is the owner of `state_dir`."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    configure(installed, oauth)
    text = installed.config.read_text()
    installed.config.write_text(text.replace('"tokens.json"', '"kept/tokens.json"'))
    oauth.confirmed = True
    kept, state = installed.root / "kept", installed.root / "state"
    kept.mkdir()
    state.mkdir()
    uid = 0 if owner == "root" else SECOND_USER
    os.chown(kept, uid, uid)
    if owner == "the daemon's user":
        os.chown(state, uid, uid)
    done = installed.ctl("login")
    if owner == "somebody":
        assert done.returncode == 1
        assert f"{kept} belongs to user {SECOND_USER}" in done.stderr
        assert list(kept.iterdir()) == []
        return
    assert done.returncode == 0, done.stderr
    assert {path.name for path in kept.iterdir()} == {"tokens.json", "tokens.json.lock"}
    for path in kept.iterdir():
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (uid, 0o600), path


def test_a_login_by_root_has_no_rights_while_it_waits(
    installed: Daemon, oauth: OAuthServer
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has rights to give up")
    configure(installed, oauth)
    running = subprocess.Popen(
        [commands() / "geosched-ctl", "--config", installed.config, "login"],
        stdout=subprocess.PIPE,
    )
    try:
        assert running.stdout is not None
        assert running.stdout.readline()
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        (login,) = children
        status = Path(f"/proc/{login}/status").read_text()
        assert f"Uid:\t{UNNAMED_UID}\t{UNNAMED_UID}\t{UNNAMED_UID}" in status
        assert "CapEff:\t0000000000000000" in status
        assert b"http:" not in Path(f"/proc/{login}/cmdline").read_bytes()
    finally:
        running.kill()
        running.communicate(timeout=10)
