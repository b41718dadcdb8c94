"""What is wanted is written whole, as `geoschedd --check` takes it, or nothing is."""

import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from geosched.ipc.messages.first_run import Wanted, Written
from geosched.supervisor.config.sections import SettingsError
from geosched.supervisor.config.settings import load
from geosched.supervisor.startup import preflight
from geosched.supervisor.startup.first_run import init

URL = "https://backend.example/api"
SECRET = "s3cret-token"
HTTP = {"backend.kind": "http", "backend.url": URL}
LOGIN = HTTP | {
    "backend.auth": "oauth",
    "backend.oauth_grant": "refresh_token",
    "backend.oauth_client_id": "device-1",
    "backend.oauth_token_url": "https://login.example/token",
    "backend.oauth_device_url": "https://login.example/device",
}
MACHINE = LOGIN | {"backend.oauth_grant": "client_credentials"}
del MACHINE["backend.oauth_device_url"]


def write(place: Path, values: dict[str, Any], **more: Any) -> Written:
    config, directory = place / "etc/geosched.toml", place / "var"
    return init.write(Wanted(str(config), values, directory=str(directory), **more))


def read(place: Path) -> dict[str, Any]:
    return tomllib.loads((place / "etc/geosched.toml").read_text())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def test_a_file_of_actions_is_all_that_a_first_try_needs(tmp_path: Path) -> None:
    told = write(tmp_path, {"backend.kind": "file"})
    assert read(tmp_path)["backend"]["path"] == f"{tmp_path}/var/state/actions.json"
    assert (tmp_path / "var/state/actions.json").read_text() == "[]\n"
    assert preflight.check(load(Path(told.config))) == []
    assert (told.left, told.warnings, told.enable) == ((), (), "")
    assert told.next[-1] == f"geoschedd --config {told.config}"
    assert (mode(Path(told.config)), mode(tmp_path / "var")) == (0o644, 0o700)


def test_a_script_is_the_one_that_ships_or_an_example_that_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, HTTP)
    assert read(tmp_path)["scripts"]["default"]["command"][1] == "--apps={apps}"
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    monkeypatch.setattr(init, "_SCRIPTS", (tmp_path / "none", broken))
    write(tmp_path, HTTP, overwrite=True)
    example = tmp_path / "etc/example-script"
    assert read(tmp_path)["scripts"]["default"]["command"] == [str(example), "{apps}"]
    assert mode(example) == 0o755


@pytest.mark.parametrize("content", [b"mine", b""])
def test_what_is_there_is_not_overwritten_without_being_told(
    tmp_path: Path, content: bytes
) -> None:
    config = tmp_path / "etc/geosched.toml"
    config.parent.mkdir()
    config.write_bytes(content)
    with pytest.raises(init._RefusedError, match="not overwritten") as refused:
        write(tmp_path, HTTP)
    assert refused.value.code == 6
    assert config.read_bytes() == content
    assert names(tmp_path) == ["etc", "etc/geosched.toml"]
    write(tmp_path, HTTP, overwrite=True)
    assert read(tmp_path)["backend"]["url"] == URL


@pytest.mark.parametrize(
    ("values", "key", "name"),
    [
        (HTTP, "token_file", "token"),
        (MACHINE, "oauth_client_secret_file", "client-secret"),
    ],
)
def test_a_secret_has_a_file_that_only_its_owner_reads(
    tmp_path: Path, values: dict[str, Any], key: str, name: str
) -> None:
    told = write(tmp_path, values, secret=SECRET)
    secret = tmp_path / "etc" / name
    assert read(tmp_path)["backend"][key] == str(secret)
    assert (secret.read_text(), mode(secret)) == (f"{SECRET}\n", 0o600)
    assert SECRET not in Path(told.config).read_text()
    assert told.left == ()


def test_a_token_that_is_there_stays_where_nothing_else_was_said(tmp_path: Path) -> None:
    token = tmp_path / "etc/token"
    token.parent.mkdir()
    token.write_text("old")
    with pytest.raises(init._RefusedError, match="token is there"):
        write(tmp_path, HTTP, secret=SECRET)
    assert token.read_text() == "old"
    assert names(tmp_path) == ["etc", "etc/token"]


def test_a_token_that_was_replaced_is_put_back_where_the_rest_is_refused(tmp_path: Path) -> None:
    token = tmp_path / "etc/token"
    token.parent.mkdir()
    token.write_text("old")
    bad = HTTP | {"scripts.default.command": ["/no/such/script"]}
    with pytest.raises(init._RefusedError, match="/no/such/script is not there"):
        write(tmp_path, bad, secret=SECRET, overwrite=True)
    assert token.read_text() == "old"
    assert names(tmp_path) == ["etc", "etc/token"]


def test_where_a_person_has_to_log_in_that_comes_next(tmp_path: Path) -> None:
    told = write(tmp_path, LOGIN)
    (left,) = told.left
    assert "nobody has logged in yet" in left
    assert told.next[0] == f"geosched-ctl --config {told.config} login"
    assert read(tmp_path)["backend"]["token_file"] == f"{tmp_path}/var/state/tokens.json"
    assert mode(tmp_path / "var/state") == 0o700, "there for the tokens, as the daemon makes it"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"scripts.default.command": ["/no/such/script"]}, "/no/such/script is not there"),
        ({"daemon.map_size": "1TiB"}, "daemon.map_size"),
        ({"backend.nothing": 1}, "there is no key backend.nothing"),
        ({"daemon.max_running": 0}, "daemon.max_running"),
        ({"backend.url": "ftp://x"}, "backend.url"),
        ({"backend.token_file": 5}, "backend.token_file"),
        ({"daemon.state_dir": {"a": 1}}, "daemon.state_dir"),
        ({"backend.kind": "none"}, "backend.kind"),
    ],
)
def test_what_check_would_refuse_is_not_written_and_nothing_is_left_of_it(
    tmp_path: Path, more: dict[str, Any], reason: str
) -> None:
    with pytest.raises((init._RefusedError, SettingsError), match=reason):
        write(tmp_path, HTTP | more, secret="" if "backend.token_file" in more else SECRET)
    assert names(tmp_path) == []
