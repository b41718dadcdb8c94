"""What the host must have for the configuration file, and what is made for it."""

import os
from pathlib import Path
from typing import Any

import pytest
import trustme
from geosched.supervisor.config.sections import SettingsError
from geosched.supervisor.startup import directories, preflight
from support.settings import BACKEND, OAUTH, SCRIPT, here, loaded


def test_a_good_host_has_no_problems_and_stays_as_it_was(tmp_path: Path) -> None:
    settings = here(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert preflight.check(settings) == []
    assert preflight.warnings(settings) == []
    assert sorted(tmp_path.iterdir()) == before


def test_a_command_must_be_there_and_executable(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    settings = here(
        tmp_path,
        '[scripts.a]\ncommand = ["/no/such/script"]\n[scripts.b]\ncommand = ["./plain"]\n'
        '[scripts.c]\ncommand = ["no-such-command-anywhere"]\n[scripts.d]\ncommand = ["sh"]\n',
    )
    problems = [
        "scripts.a.command: /no/such/script is not there",
        f"scripts.b.command: {tmp_path}/plain cannot be executed: it is not executable",
        "scripts.c.command: no-such-command-anywhere is not there",
    ]
    assert preflight.check(settings) == problems
    assert preflight.warnings(settings) == problems


def test_a_command_is_looked_up_in_the_path_of_its_script(tmp_path: Path) -> None:
    program = tmp_path / "only-here"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    script = f'[scripts.a]\ncommand = ["only-here"]\nenv = {{ PATH = "{tmp_path}" }}\n'
    assert preflight.check(here(tmp_path, script)) == []


def test_whom_a_script_runs_as_is_checked_but_not_looked_up_at_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = here(tmp_path, '[scripts.a]\ncommand = ["sh"]\nuser = "no-such-user"\n')
    assert preflight.check(settings) == ["scripts.a.user: there is no user 'no-such-user'"]
    monkeypatch.setattr(
        preflight, "credentials_of", lambda _: pytest.fail("a name service may hang")
    )
    assert preflight.warnings(settings) == []


def test_only_root_can_have_a_script_be_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = here(tmp_path, '[scripts.a]\ncommand = ["sh"]\nuser = 0\n')
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    monkeypatch.setattr(os, "getegid", lambda: 65534)
    reason = "only root can run a script as somebody else"
    assert preflight.check(settings) == [f"scripts.a.{key}: {reason}" for key in ("user", "group")]


def test_no_script_at_all_is_a_warning_and_no_problem(tmp_path: Path) -> None:
    settings = here(tmp_path, "")
    assert preflight.check(settings) == []
    assert preflight.warnings(settings) == [
        "scripts: none is configured, so every action fails with no-script"
    ]


def test_secrets_that_others_can_read_are_a_warning_and_writable_ones_a_problem(
    tmp_path: Path,
) -> None:
    settings = loaded(tmp_path, f'{BACKEND}token_file = "token"\n{SCRIPT}')
    token = tmp_path / "token"
    token.write_text("x")
    token.chmod(0o600)
    assert preflight.warnings(settings) == []
    token.chmod(0o644)
    said = f"backend.token_file: others than its owner can read {token} (mode 0644)"
    assert preflight.warnings(settings) == [said]
    assert not any("backend" in problem for problem in preflight.check(settings))
    token.chmod(0o620)
    said = f"backend.token_file: others than its owner can write {token} (mode 0620)"
    assert said in preflight.check(settings)
    token.unlink()
    assert preflight.warnings(settings) == []
    assert f"backend.token_file: cannot read {token}" in preflight.check(settings)


def test_tokens_that_the_daemon_keeps_need_a_login_and_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = loaded(tmp_path, OAUTH + SCRIPT)
    tokens = tmp_path / "tokens.json"
    missing = f"backend.token_file: nobody has logged in yet: geosched-ctl login makes {tokens}"
    assert missing in preflight.check(settings)
    tokens.write_text("{}")
    assert not any("backend" in problem for problem in preflight.check(settings))
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    unwritable = f"backend.token_file: new tokens cannot be kept: {tmp_path} is not writable"
    assert unwritable in preflight.check(settings)


def test_certificates_must_be_there_and_be_some(tmp_path: Path) -> None:
    settings = loaded(tmp_path, f'[backend]\nurl = "https://b"\nca_file = "ca.pem"\n{SCRIPT}')
    known = tmp_path / "ca.pem"
    missing = f"backend.ca_file: cannot read {known}: No such file or directory"
    assert missing in preflight.check(settings)
    known.write_text("garbage")
    assert f"backend.ca_file: {known} holds no certificate" in preflight.check(settings)
    known.write_bytes(trustme.CA().cert_pem.bytes())
    assert not any("backend" in problem for problem in preflight.check(settings))


def test_directories_must_be_usable_or_creatable(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    settings = loaded(
        tmp_path,
        '[daemon]\nstate_dir = "state"\nruntime_dir = "none/run"\nlog_dir = "state/log"\n'
        + BACKEND,
    )
    assert [problem.split(": ")[0] for problem in preflight.check(settings)] == [
        "daemon.state_dir",
        "daemon.runtime_dir",
        "daemon.log_dir",
    ]
    assert not (tmp_path / "none").exists()


def test_what_the_daemon_may_not_write_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = here(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    assert [problem.split(": ")[0] for problem in preflight.check(settings)] == [
        "daemon.state_dir",
        "daemon.runtime_dir",
        "daemon.log_dir",
        "backend.path",
        "scripts.default.command",
        "scripts.default.cwd",
    ]


def test_sockets_must_fit_below_the_runtime_directory(tmp_path: Path) -> None:
    fits = "/" + "r" * 93
    for runtime_dir, problems in ((fits, 0), (fits + "r", 1)):
        text = f'[daemon]\nruntime_dir = "{runtime_dir}"\n{BACKEND}{SCRIPT}'
        text = text.replace(
            "[backend]", f'state_dir = "{tmp_path}/s"\nlog_dir = "{tmp_path}/l"\n[backend]'
        )
        found = [one for one in preflight.check(loaded(tmp_path, text)) if "sockets" in one]
        assert len(found) == problems
    with pytest.raises(SettingsError, match="runtime_dir: longer than 94 bytes"):
        directories.prepare(loaded(tmp_path, text))


def test_a_token_must_be_readable(tmp_path: Path) -> None:
    text = BACKEND + 'token_file = "token"\n' + SCRIPT
    daemon = '[daemon]\nstate_dir = "s"\nruntime_dir = "r"\nlog_dir = "l"\n'
    settings = loaded(tmp_path, daemon + text)
    assert preflight.check(settings) == [f"backend.token_file: cannot read {tmp_path}/token"]
    (tmp_path / "token").write_text("secret")
    assert preflight.check(settings) == []


def test_operators_must_be_users_of_this_host(tmp_path: Path) -> None:
    settings = here(tmp_path, '[control]\noperators = ["root", 4711, "nobody-of-that-name"]\n')
    assert preflight.check(settings) == [
        "control.operators: there is no user 'nobody-of-that-name'"
    ]


def test_missing_directories_are_created_with_their_modes(tmp_path: Path) -> None:
    settings = here(tmp_path)
    (tmp_path / "log").mkdir(0o711)
    (tmp_path / "log").chmod(0o711)
    umask = os.umask(0o777)
    try:
        directories.prepare(settings)
        directories.prepare_log_dir(settings)
    finally:
        os.umask(umask)
    modes: dict[str, Any] = {
        name: (tmp_path / name).stat().st_mode & 0o777 for name in ("state", "run", "log")
    }
    assert modes == {"state": 0o700, "run": 0o750, "log": 0o711}
    directories.prepare(settings)


def test_parents_are_not_created(tmp_path: Path) -> None:
    settings = loaded(tmp_path, f'[daemon]\nstate_dir = "none/state"\n{BACKEND}')
    with pytest.raises(SettingsError, match=r"daemon\.state_dir: cannot create .*none/state"):
        directories.prepare(settings)
    assert not (tmp_path / "none").exists()


def test_without_its_log_directory_the_daemon_starts_and_says_so(tmp_path: Path) -> None:
    text = '[daemon]\nstate_dir = "s"\nruntime_dir = "r"\nlog_dir = "none/log"\n'
    settings = loaded(tmp_path, text + BACKEND)
    directories.prepare(settings)
    (problem,) = directories.prepare_log_dir(settings)
    assert "none/log: cannot create" in problem
