"""A check tries what the daemon will do in its directories and with its files, and leaves
nothing behind."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from geosched.supervisor.config.sections import SettingsError
from geosched.supervisor.startup import directories, preflight
from support.settings import BACKEND, OAUTH, SCRIPT, here, loaded


def in_directories(root: Path, state: str, run: str, log: str) -> list[str]:
    text = f'[daemon]\nstate_dir = "{state}"\nruntime_dir = "{run}"\nlog_dir = "{log}"\n'
    return preflight.check(loaded(root, text + BACKEND + SCRIPT))


@pytest.mark.parametrize("key", ["state_dir", "runtime_dir", "log_dir"])
@pytest.mark.parametrize("place", ["/proc", "/proc/none", "/sys", "/sys/none", "/dev/null/none"])
def test_a_directory_of_the_kernel_s_own_is_found(tmp_path: Path, key: str, place: str) -> None:
    places = {"state_dir": "state", "runtime_dir": "run", "log_dir": "log"} | {key: place}
    found = in_directories(tmp_path, *places.values())
    assert [problem.split(": ")[0] for problem in found] == [f"daemon.{key}"]
    assert place.split("/")[1] in found[0]


ENTRIES: dict[str, Callable[[Path], object]] = {
    "state/lock": Path.mkdir,
    "state/daemondb": Path.touch,
    "state/daemondb/data.mdb": Path.mkdir,
    "state/backups": Path.touch,
    "run/lock": os.mkfifo,
    "run/daemondb.lock": Path.mkdir,
    "run/control.sock": Path.touch,
    "run/workers.sock": Path.mkdir,
    "run/runs": Path.touch,
    "run/results": Path.touch,
    "run/processes": Path.touch,
    "run/backoff.json": Path.mkdir,
}
#: With these a daemon can begin, or opening the store says what is wrong.
BEGUN_WITH = {
    "state/daemondb",
    "state/daemondb/data.mdb",
    "state/backups",
    "run/daemondb.lock",
    "run/backoff.json",
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_what_is_of_another_kind_than_the_daemon_makes_is_found(tmp_path: Path, entry: str) -> None:
    settings = here(tmp_path)
    directories.prepare(settings)
    path = tmp_path / entry
    path.parent.mkdir(exist_ok=True)
    ENTRIES[entry](path)
    key = "state_dir" if entry.startswith("state") else "runtime_dir"
    found = preflight.check(settings)
    assert [problem.split(" is there, and is no ")[0] for problem in found] == [
        f"daemon.{key}: {path}"
    ]
    if entry in BEGUN_WITH:
        directories.prepare(settings)
    else:
        with pytest.raises(SettingsError, match=f"{path} is there, and is no"):
            directories.prepare(settings)


def test_a_daemon_s_own_files_are_no_problem(tmp_path: Path) -> None:
    settings = here(tmp_path)
    directories.prepare(settings)
    for name in ("state/lock", "run/lock", "run/daemondb.lock", "run/backoff.json"):
        (tmp_path / name).touch()
    for name in ("state/daemondb", "run/runs", "run/results", "run/processes"):
        (tmp_path / name).mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "run" / "control.sock"))
    before = sorted(tmp_path.rglob("*"))
    assert preflight.check(settings) == []
    assert sorted(tmp_path.rglob("*")) == before


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a directory": (Path.mkdir, "it is not a regular file"),
    "a FIFO": (os.mkfifo, "it is not a regular file"),
    "a link to nothing": (lambda path: path.symlink_to("/no/such"), "a link to nothing"),
}


@pytest.mark.parametrize("kind", FILES)
def test_actions_that_cannot_be_read_are_found(tmp_path: Path, kind: str) -> None:
    make, reason = FILES[kind]
    make(tmp_path / "actions.json")
    (found,) = preflight.check(here(tmp_path))
    assert found.startswith("backend.path: ")
    assert reason in found


@pytest.mark.parametrize("kind", ["a directory", "a FIFO"])
def test_reports_that_cannot_be_kept_are_found(tmp_path: Path, kind: str) -> None:
    make, reason = FILES[kind]
    make(tmp_path / "actions.json.status.jsonl")
    (found,) = preflight.check(here(tmp_path))
    assert found.startswith("backend.path: reports cannot be kept in ")
    assert reason in found


@pytest.mark.parametrize("key", ["ca_file", "client_cert", "client_key", "token_file"])
@pytest.mark.parametrize("kind", ["a directory", "a FIFO"])
def test_a_file_of_the_backend_that_is_none_is_found_and_not_waited_for(
    tmp_path: Path, key: str, kind: str
) -> None:
    FILES[kind][0](tmp_path / "odd")
    names = {"client_cert": "pem", "client_key": "pem"} if key.startswith("client") else {}
    (tmp_path / "pem").touch()
    keys = "".join(f'{name} = "{path}"\n' for name, path in (names | {key: "odd"}).items())
    settings = loaded(tmp_path, f'[backend]\nurl = "https://b"\n{keys}{SCRIPT}')
    assert any(
        problem.startswith(f"backend.{key}: cannot read {tmp_path}/odd")
        for problem in preflight.check(settings)
    )


def test_tokens_that_are_no_file_are_found(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tokens.json")
    settings = loaded(tmp_path, OAUTH + SCRIPT)
    reason = f"backend.token_file: cannot read {tmp_path}/tokens.json: it is not a regular file"
    assert reason in preflight.check(settings)
