"""The users of scripts, by number, for the sweep."""

import os
import pwd
import time
from pathlib import Path

import pytest
from geosched.supervisor.config.sections import Settings
from geosched.supervisor.config.settings import load
from geosched.supervisor.startup import apart
from geosched.supervisor.startup.script_users import script_users

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="looks up names as root only")


def settings_with(tmp_path: Path, *users: str) -> Settings:
    file = tmp_path / "geosched.toml"
    lines = ["[backend]", 'kind = "file"', 'path = "actions.json"']
    for number, user in enumerate(users):
        lines += [f"[scripts.t{number}]", 'command = ["/bin/true"]', f'user = "{user}"']
    file.write_text("\n".join(lines) + "\n")
    return load(file)


def test_a_number_is_looked_up_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwnam", None)
    assert script_users(settings_with(tmp_path, "61234", "7", "")) == {61234, 7}


@needs_root
def test_a_name_is_looked_up_and_one_that_nobody_has_is_left_out(tmp_path: Path) -> None:
    found = script_users(settings_with(tmp_path, "nobody", "no-such-user", "7"))
    assert found == {pwd.getpwnam("nobody").pw_uid, 7}


@needs_root
def test_a_name_service_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(apart, "CALL_IDLE_SECONDS_MAX", 0.2)
    monkeypatch.setattr(pwd, "getpwnam", lambda _: time.sleep(60))
    assert script_users(settings_with(tmp_path, "somebody", "7")) == {7}
    assert "Cannot look up the users of scripts, somebody: no answer" in caplog.text
