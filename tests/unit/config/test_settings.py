"""What the configuration file may say."""

import json
import re
import signal
import tomllib
from pathlib import Path

import msgspec
import pytest
from geosched.supervisor.config.derived import address
from geosched.supervisor.config.sections import (
    BackendSettings,
    ControlSettings,
    DaemonSettings,
    ScriptSettings,
    SettingsError,
    key_of,
)
from geosched.supervisor.config.settings import load, needs_restart
from support.paths import DEPLOY
from support.settings import BACKEND, OAUTH, SCRIPT, here, loaded

EXAMPLE = DEPLOY / "geosched.example.toml"


def script_with(directory: Path, line: str) -> ScriptSettings:
    return loaded(directory, f"{BACKEND}{SCRIPT}{line}\n").scripts["default"]


# --- what it means ----------------------------------------------------------------------


def test_what_is_left_out_has_the_documented_default(tmp_path: Path) -> None:
    settings = loaded(tmp_path, '[backend]\nurl = "https://backend.example/api/"\n' + SCRIPT)
    assert settings.daemon == DaemonSettings(
        state_dir=Path("/var/lib/geosched"),
        runtime_dir=Path("/run/geosched"),
        log_dir=Path("/var/log/geosched"),
        max_running=32,
        clock_wait_seconds=600,
    )
    assert settings.backend == BackendSettings(
        kind="http",
        url="https://backend.example/api",
        poll_interval_seconds=60,
        start_splay_seconds=0,
        timeout_seconds=30,
        max_body_bytes=8 * 1024 * 1024,
        max_actions=10_000,
        report=True,
    )
    assert settings.scripts == {
        "default": ScriptSettings(
            command=("true",),
            stop_signal=signal.SIGTERM,
            stop_grace_seconds=10,
            restart="never",
            heartbeat_timeout_seconds=15,
            watchdog_seconds=0,
            output_max_bytes=1024 * 1024,
        )
    }
    assert settings.control == ControlSettings(operators=())


def default_of(field: msgspec.structs.FieldInfo) -> object:
    made = field.default_factory
    return field.default if made is msgspec.NODEFAULT else made()


def test_the_example_holds_every_setting_with_its_default() -> None:
    settings = load(EXAMPLE)
    document = tomllib.loads(EXAMPLE.read_text())
    # These have no default.
    shown = {"url", "path", "token_file", "oauth_client_secret_file", "command"}
    shown |= {"ca_file", "client_cert", "client_key"}
    for name, section in (
        ("daemon", settings.daemon),
        ("backend", settings.backend),
        ("control", settings.control),
        ("default", settings.scripts["default"]),
    ):
        table = document["scripts"]["default"] if name == "default" else document[name]
        for field in msgspec.structs.fields(section):
            key = key_of(field.name)
            if key not in shown:
                assert key in table, f"{name}.{key} is not shown"
                assert getattr(section, field.name) == default_of(field)
            else:
                assert f"{key} = " in EXAMPLE.read_text()


def test_the_files_that_the_example_only_mentions_may_be_set(tmp_path: Path) -> None:
    text = (
        EXAMPLE.read_text().replace("# path =", "path =").replace("# token_file =", "token_file =")
    )
    settings = loaded(tmp_path, text)
    assert settings.backend.path == str(tmp_path / "actions.json")
    assert settings.backend.token_file == "/etc/geosched/token"


def test_relative_paths_are_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "geosched.toml").write_text(
        f'[daemon]\nstate_dir = "state"\n{BACKEND}token_file = "/etc/token"\n'
        '[scripts.default]\ncommand = ["bin/run", "x/y"]\n[scripts.named]\ncommand = ["run"]\n'
    )
    monkeypatch.chdir(tmp_path)
    settings = load(Path("geosched.toml"))
    assert settings.source == tmp_path / "geosched.toml"
    assert settings.daemon.state_dir == tmp_path / "state"
    assert settings.backend.path == str(tmp_path / "actions.json")
    assert settings.backend.token_file == "/etc/token"
    assert settings.scripts["default"].command == (str(tmp_path / "bin/run"), "x/y")
    assert settings.scripts["named"].command == ("run",)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [('"500ms"', 0.5), ('"10s"', 10), ('"5m"', 300), ('"0s"', 0), ("0", 0), ('"1.5s"', 1.5)],
)
def test_durations_have_units_and_zero_needs_none(
    tmp_path: Path, text: str, seconds: float
) -> None:
    assert script_with(tmp_path, f"stop_grace = {text}").stop_grace_seconds == seconds


@pytest.mark.parametrize(
    ("text", "size"), [('"64KiB"', 65_536), ('"1GiB"', 2**30), ("4096", 4096), ('"2048B"', 2048)]
)
def test_sizes_have_binary_units_or_are_bytes(tmp_path: Path, text: str, size: int) -> None:
    assert script_with(tmp_path, f"output_max = {text}").output_max_bytes == size


@pytest.mark.parametrize("name", ["USR1", "SIGUSR1"])
def test_signals_go_by_their_name(tmp_path: Path, name: str) -> None:
    assert script_with(tmp_path, f'stop_signal = "{name}"').stop_signal == signal.SIGUSR1


@pytest.mark.parametrize(("timeout", "beat"), [("15s", 5), ("3s", 1), ("10m", 5)])
def test_a_worker_beats_three_times_before_it_is_silent(
    tmp_path: Path, timeout: str, beat: float
) -> None:
    assert script_with(tmp_path, f'heartbeat_timeout = "{timeout}"').heartbeat_seconds == beat


def test_braces_around_anything_but_a_word_are_plain_text(tmp_path: Path) -> None:
    command = ("sh", "-c", 'echo ${HOME} { x } {} {"a":1}', "{id}{apps}{from}{to}{run}{attempt}")
    text = f"{BACKEND}[scripts.a]\ncommand = {json.dumps(command)}\n"
    assert loaded(tmp_path, text).scripts["a"].command == command


def test_operators_are_names_or_numbers(tmp_path: Path) -> None:
    settings = loaded(tmp_path, f'{BACKEND}[control]\noperators = ["alice", 1000]\n')
    assert settings.control.operators == ("alice", "1000")


@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        ('"a\\u0000b"', "control character"),
        ('"a\\nb"', "control character"),
        ('""', "length >= 1"),
        ("4294967296", "expected a name or a number"),
        ("-1", "expected a name or a number"),
        (f'"{"x" * 257}"', "length <= 256"),
        ("true", "str"),
    ],
)
def test_what_can_be_no_user_is_no_operator(tmp_path: Path, operator: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(reason)) as caught:
        loaded(tmp_path, f"{BACKEND}[control]\noperators = [{operator}]\n")
    assert "control.operators" in str(caught.value)


def test_directories_and_the_map_need_a_restart(tmp_path: Path) -> None:
    old = here(tmp_path)
    new = loaded(
        tmp_path, f'[daemon]\nstate_dir = "state"\nspare_workers = 3\nmap_size = "1MiB"\n{BACKEND}'
    )
    assert needs_restart(old, old) == []
    assert needs_restart(old, new) == ["daemon.runtime_dir", "daemon.log_dir", "daemon.map_size"]
    kept = new.without_restart(old)
    assert needs_restart(old, kept) == []
    assert kept.daemon.spare_workers == 3


# --- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("[deamon]\n", "deamon", "unknown key (known: daemon, backend, scripts, control)"),
        ("[daemon]\nmax_runing = 1\n", "daemon.max_runing", "unknown key"),
        ('[daemon]\n"a\\nb" = 1\n', "daemon.'a\\nb'", "unknown key"),
        ("[control]\nusers = []\n", "control.users", "unknown key"),
        ("daemon = 1\n", "daemon", "expected a table, got 1"),
        ("scripts = []\n", "scripts", "expected a table, got []"),
        ('[daemon]\nmax_running = "32"\n', "daemon.max_running", "expected `int`, got `str`"),
        ("[daemon]\nmax_running = true\n", "daemon.max_running", "expected `int`, got `bool`"),
        ("[daemon]\nmax_running = 0\n", "daemon.max_running", "expected `int` >= 1"),
        ("[daemon]\nmax_running = 10001\n", "daemon.max_running", "expected `int` <= 10000"),
        ("[daemon]\nclock_wait = 5\n", "daemon.clock_wait", "expected a duration such as"),
        ("[daemon]\nclock_wait = false\n", "daemon.clock_wait", "expected a duration such as"),
        ('[daemon]\nclock_wait = "5 s"\n', "daemon.clock_wait", "got '5 s'"),
        ('[daemon]\nclock_wait = "-5s"\n', "daemon.clock_wait", "got '-5s'"),
        ('[daemon]\nclock_wait = "\u0665s"\n', "daemon.clock_wait", "expected a duration"),
        ('[daemon]\nclock_wait = "999h"\n', "daemon.clock_wait", "expected seconds <= 604800"),
        ("[daemon]\nstate_dir = 1\n", "daemon.state_dir", "expected a path, got 1"),
        ('[daemon]\nstate_dir = ""\n', "daemon.state_dir", "expected a path"),
        ('[daemon]\nstate_dir = "a\\u0000b"\n', "daemon.state_dir", "expected a path"),
        (
            '[daemon]\nlog_dir = "/run/./geosched"\n',
            "daemon.log_dir",
            "same directory as daemon.ru",
        ),
    ],
)
def test_a_mistake_is_named_by_file_key_and_reason(
    tmp_path: Path, text: str, key: str, reason: str
) -> None:
    refused(tmp_path, text + BACKEND, key, reason)


@pytest.mark.parametrize(
    ("lines", "key", "reason"),
    [
        ("", "backend.url", 'is missing (kind = "http" needs it)'),
        ('kind = "file"', "backend.path", 'is missing (kind = "file" needs it)'),
        ('kind = "trpc"', "backend.url", 'is missing (kind = "trpc" needs it)'),
        ('kind = "ftp"', "backend.kind", "expected one of http, trpc, file, got 'ftp'"),
        ("kind = []", "backend.kind", "expected one of http, trpc, file, got []"),
        ('url = "ftp://b/"', "backend.url", "expected http://… or https://…"),
        ('url = "https:///api"', "backend.url", "with a host"),
        ('url = "https://b:99999/"', "backend.url", "is no address"),
        ('url = "https://[b/"', "backend.url", "is no address"),
        ('url = "https://b/a?x=1"', "backend.url", "has a query or a fragment"),
        ('url = "https://b/a#x"', "backend.url", "has a query or a fragment"),
        ('url = "https://b/\\n"', "backend.url", "has a space or a control character"),
        ('url = "https://b"\npoll_interval = "199ms"', "backend.poll_interval", "seconds >= 0.2"),
        ('url = "https://b"\npoll_interval = "25h"', "backend.poll_interval", "seconds <= 86400"),
        ('url = "https://b"\ntimeout = "0s"', "backend.timeout", "seconds >= 0.1"),
        ('url = "https://b"\nmax_body = "8MB"', "backend.max_body", "expected a size such as"),
        ('url = "https://b"\nmax_body = true', "backend.max_body", "expected a size such as"),
        ('url = "https://b"\nmax_body = -1', "backend.max_body", "expected `int` >= 1024"),
        ('url = "https://b"\nreport = "no"', "backend.report", "expected `bool`"),
    ],
)
def test_a_backend_that_cannot_be_asked_is_refused(
    tmp_path: Path, lines: str, key: str, reason: str
) -> None:
    refused(tmp_path, f"[backend]\n{lines}\n", key, reason)


def test_who_asks_may_be_told_by_tokens_that_the_daemon_renews(tmp_path: Path) -> None:
    more = 'oauth_device_url = "http://127.0.0.1:1/device"\noauth_scope = "offline_access"\n'
    backend = loaded(tmp_path, OAUTH + more).backend
    assert (backend.auth, backend.oauth_grant) == ("oauth", "refresh_token")
    where = address(backend)
    assert where.oauth_device_url == "http://127.0.0.1:1/device"
    assert where.oauth_scope == "offline_access"
    assert where.token_file == str(tmp_path / "tokens.json")
    assert address(here(tmp_path).backend).auth == "token"


@pytest.mark.parametrize(
    ("old", "new", "key", "reason"),
    [
        ('token_file = "tokens.json"', "", "token_file", 'is missing (auth = "oauth" needs it)'),
        ('oauth_client_id = "device-1"', "", "oauth_client_id", "is missing"),
        ('"https://login.example/oauth/token"', '""', "oauth_token_url", "is missing"),
        ("https://login", "http://login", "oauth_token_url", "expected https://"),
        ("https://login.example", "http://127.evil.example", "oauth_token_url", "expected https"),
        ("https://login", "https://me:hunter2@login", "oauth_token_url", "has credentials in it"),
        ("device-1", "device\\u0000", "oauth_client_id", "control character"),
        (
            "https://login.example",
            'http://127.0.0.1/"\nproxy = "http://p:1"\n#',
            "oauth_token_url",
            "the proxy would see the secrets",
        ),
        ('auth = "oauth"', 'auth = "token"', "oauth_token_url", 'is only for auth = "oauth"'),
        ('auth = "oauth"', 'auth = "basic"', "auth", "expected one of token, oauth"),
        ('url = "https://b"', 'kind = "file"\npath = "a"', "auth", "asks nobody who they are"),
        (
            'auth = "oauth"',
            'auth = "oauth"\noauth_grant = "client_credentials"',
            "oauth_client_secret_file",
            "is missing",
        ),
        (
            'auth = "oauth"',
            'auth = "oauth"\noauth_grant = "client_credentials"\noauth_device_url = "https://l"',
            "oauth_device_url",
            'is only for oauth_grant = "refresh_token"',
        ),
    ],
)
def test_a_way_to_say_who_asks_that_cannot_work_is_refused(
    tmp_path: Path, old: str, new: str, key: str, reason: str
) -> None:
    assert old in OAUTH
    assert "hunter2" not in refused(tmp_path, OAUTH.replace(old, new), f"backend.{key}", reason)


@pytest.mark.parametrize(
    ("lines", "key", "reason"),
    [
        ('client_cert = "c"', "client_key", "is missing (client_cert needs it)"),
        ('client_key = "k"', "client_cert", "is missing (client_key needs it)"),
        ('proxy = "https://p:1"', "proxy", "expected http:// with a host and a port"),
        ('proxy = "http://p:1/x"', "proxy", "expected http:// with a host and a port"),
        ('proxy = "socks5://p:1"', "proxy", "expected http"),
        ('proxy = "http://me:hunter2@p:1"', "proxy", "has credentials in it"),
    ],
)
def test_a_way_to_the_backend_that_cannot_work_is_refused(
    tmp_path: Path, lines: str, key: str, reason: str
) -> None:
    text = f'[backend]\nurl = "https://b"\n{lines}\n'
    assert "hunter2" not in refused(tmp_path, text, f"backend.{key}", reason)


@pytest.mark.parametrize("lines", ['ca_file = "c"', 'client_cert = "c"\nclient_key = "k"'])
def test_certificates_that_nothing_would_look_at_are_refused(tmp_path: Path, lines: str) -> None:
    key = f"backend.{lines.split(maxsplit=1)[0]}"
    refused(tmp_path, f'[backend]\nurl = "http://b"\n{lines}\n', key, "only for an https://")
    refused(tmp_path, BACKEND + lines, key, "is only for an https://")


def test_the_way_to_the_backend_is_passed_on(tmp_path: Path) -> None:
    lines = 'ca_file = "ca"\nclient_cert = "c"\nclient_key = "k"\nproxy = "http://p:3128"\n'
    where = address(loaded(tmp_path, f'[backend]\nurl = "https://b"\n{lines}').backend)
    paths = (where.ca_file, where.client_cert, where.client_key)
    assert paths == tuple(str(tmp_path / name) for name in ("ca", "c", "k"))
    assert where.proxy == "http://p:3128"


def test_a_password_in_the_url_is_refused_and_not_repeated(tmp_path: Path) -> None:
    text = '[backend]\nurl = "https://me:hunter2@backend.example/"\n'
    assert "hunter2" not in refused(tmp_path, text, "backend.url", "has credentials in it")


@pytest.mark.parametrize(
    ("lines", "key", "reason"),
    [
        ("", "command", "is missing"),
        ("command = []", "command", "length >= 1"),
        ('command = "sh -c x"', "command", "expected `array`, got `str`"),
        ('command = ["a", 1]', "command[1]", "expected `str`, got `int`"),
        ('command = [""]', "command", "the program, is empty"),
        ('command = ["a", "{app}"]', "command", "unknown placeholder {app} (known: {id}"),
        ('command = ["/bin/{type}"]', "command", "takes no placeholder"),
        ('command = ["a", "b\\u0000"]', "command", "has a NUL"),
        ('command = ["a"]\nstop_signal = "STOP"', "stop_signal", "expected one of TERM"),
        ('command = ["a"]\nstop_signal = 15', "stop_signal", "expected one of TERM"),
        ('command = ["a"]\nstop_grace = "11m"', "stop_grace", "seconds <= 600"),
        ('command = ["a"]\nrestart = "sometimes"', "restart", "never, on-failure, always"),
        ('command = ["a"]\nheartbeat_timeout = "900ms"', "heartbeat_timeout", "seconds >= 1"),
        ('command = ["a"]\nwatchdog = "99ms"', "watchdog", 'expected 0 or at least "100ms"'),
        ('command = ["a"]\noutput_max = 1023', "output_max", "`int` >= 1024"),
        ('command = ["a"]\noutput_max = "2GiB"', "output_max", "`int` <= 1073741824"),
        ('command = ["a"]\nrestart_delay = "10m"', "restart_delay_max", "shorter than"),
        ('command = ["a"]\numask = 22', "umask", 'octal umask such as "022"'),
        ('command = ["a"]\numask = "088"', "umask", 'octal umask such as "022"'),
        ('command = ["a"]\nnice = 20', "nice", "<= 19"),
        ('command = ["a"]\noom_score_adj = -1001', "oom_score_adj", ">= -1000"),
        ('command = ["a"]\nlimits = 7', "limits", "expected a table"),
        ('command = ["a"]\nlimits = { memory = "1MiB" }', "limits.memory", "unknown key"),
        ('command = ["a"]\nlimits = { cpu = "1500ms" }', "limits.cpu", "whole seconds"),
        ('command = ["a"]\nlimits = { address_space = "much" }', "limits.address_space", "size"),
        ('command = ["a"]\nenv = { "A B" = "x" }', "env", "no name of a variable"),
        ('command = ["a"]\nenv = { GEOSCHED_ACTION_ID = "x" }', "env", "set by the daemon"),
        ('command = ["a"]\nenv = { NOTIFY_SOCKET = "x" }', "env", "set by the daemon"),
        ('command = ["a"]\nenv = { A = 7 }', "env.A", "expected text"),
        ('command = ["a"]\nuser = ["x"]', "user", "expected `str`"),
        ('command = ["a"]\nuser = "a\\u0000b"', "user", "control character"),
        ('command = ["a"]\ngroup = "\u0663\u0663"', "group", "the digits 0 to 9"),
        ('command = ["a"]\nuser = 4294967295', "user", "a number from 0 to 4294967294"),
        ('command = ["a"]\ngroup = "99999999999"', "group", "a number from 0 to 4294967294"),
        ('command = ["a"]\ngroup = -1', "group", "a number from 0 to 4294967294"),
        ('command = ["a"]\nenv = { A = "a\\u0000b" }', "env.A", "has a NUL"),
        ('command = ["a"]\npassword = "x"', "password", "unknown key"),
    ],
)
def test_a_script_that_cannot_be_run_is_refused(
    tmp_path: Path, lines: str, key: str, reason: str
) -> None:
    refused(tmp_path, f"{BACKEND}[scripts.block]\n{lines}\n", f"scripts.block.{key}", reason)


@pytest.mark.parametrize("kind", ["a b", "", "x" * 65, "a/b"])
def test_a_type_that_no_action_can_have_is_refused(tmp_path: Path, kind: str) -> None:
    refused(tmp_path, f'{BACKEND}[scripts."{kind}"]\ncommand = ["a"]\n', "scripts.", "a type is")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[daemon\n", "at line 1"),
        (b"x = '\xff'\n", "can't decode byte 0xff"),
        (b"x = " + b"[" * 5000, "nested too deep"),
        (b"#" * (1024 * 1024 + 1), "longer than 1048576 bytes"),
    ],
)
def test_what_is_no_toml_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "geosched.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load(file)
    assert str(caught.value).startswith(f"cannot use {file}: ")
    assert reason in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot read .*/none\.toml: No such file"):
        load(tmp_path / "none.toml")


def refused(directory: Path, text: str, key: str, reason: str) -> str:
    """The message that such a file is refused with."""
    with pytest.raises(SettingsError) as caught:
        loaded(directory, text)
    message = str(caught.value)
    assert message.startswith(f"cannot use {directory / 'geosched.toml'}: {key}")
    assert reason in message
    assert message.isprintable(), "one line"
    return message
