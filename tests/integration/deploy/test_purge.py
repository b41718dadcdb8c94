"""Purging the Debian package: what it or the daemon made goes, what anybody else made stays."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.ipc.paths import (
    DEFAULT_CONFIG,
    DEFAULT_LOG_DIR,
    DEFAULT_RUNTIME_DIR,
    DEFAULT_STATE_DIR,
    Runtime,
    status_journal,
)
from geosched.supervisor.core.lifecycle import new_run_id
from geosched.supervisor.runs.run_order import output_path
from geosched.supervisor.startup.mark import KEY_FILE
from geosched.supervisor.store.files import StorePaths
from geosched.workers.host.files import TEMPORARY
from support.paths import DEPLOY

OAUTH = '[backend]\nauth = "oauth"\ntoken_file = "{}"\n'


def below(root: Path, path: str | Path) -> Path:
    return root / str(path).lstrip("/")


def made_by_the_daemon(root: Path) -> Iterator[Path]:
    """The names that the code gives, each below `root`."""
    paths, runtime = (
        StorePaths(below(root, DEFAULT_STATE_DIR)),
        Runtime(below(root, DEFAULT_RUNTIME_DIR)),
    )
    stores = [paths.store, paths.making, paths.made, paths.old, paths.backups / "7"]
    stores += [paths.backups / ".8", paths.backups / ".8" / ".making-99"]
    stores += [paths.state_dir / "daemondb.bad-3", paths.state_dir / "daemondb.copy-4711"]
    for store in stores:
        yield from (store / name for name in ("data.mdb", "initialised", "incidents.json"))
    yield from (paths.state_dir / name for name in ("lock", KEY_FILE, KEY_FILE + TEMPORARY))
    yield output_path(below(root, DEFAULT_LOG_DIR), new_run_id("generation", "id", 12))
    yield from (runtime.lock, runtime.store_lock, runtime.control_socket, runtime.worker_socket)
    yield runtime.backoff
    for directory in (runtime.runs, runtime.results, runtime.processes, runtime.notify):
        yield directory / "4711"
    yield below(root, "/var/log/geoschedd.log")
    yield below(root, "/var/log/geoschedd.log.2.gz")
    yield below(root, "/var/log/geoschedd/current")
    yield below(root, "/var/log/geoschedd/@400000006541a1a50a1b2c3d.s")
    yield below(root, "/etc/sv/geosched/log/supervise/status")


def write(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def purge(root: Path) -> None:
    """Run the script that dpkg runs, on a host below `root`."""
    subprocess.run(
        [DEPLOY / "debian" / "postrm", "purge"],
        env=os.environ | {"DPKG_ROOT": str(root)},
        timeout=30,
        check=True,
    )


def files_in(root: Path) -> set[str]:
    return {f"/{path.relative_to(root)}" for path in root.rglob("*") if not path.is_dir()}


def test_nothing_is_left_of_what_the_daemon_made(tmp_path: Path):
    for path in made_by_the_daemon(tmp_path):
        write(path)
    link = StorePaths(below(tmp_path, DEFAULT_STATE_DIR)).store / "lock.mdb"
    link.symlink_to("/nowhere")
    write(below(tmp_path, DEFAULT_CONFIG), "[backend]\n")
    purge(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"etc", "etc/sv", "var", "var/lib", "var/log", "run"}


def test_what_others_made_stays(tmp_path: Path):
    for path in made_by_the_daemon(tmp_path):
        write(path)
    write(below(tmp_path, DEFAULT_CONFIG), "[backend]\n")
    theirs = {
        "/etc/geosched/token",
        "/etc/geosched/geosched.toml.mine",
        "/var/lib/geosched/actions.json",
        "/var/lib/geosched/daemondb/notes",
        "/var/lib/geosched/backups/mine/data.mdb",
        "/var/log/geosched/mine.log",
        "/var/log/geoschedd.log.mine",
    }
    for path in theirs:
        write(below(tmp_path, path))
    empty = below(tmp_path, "/etc/geosched/certificates")
    empty.mkdir()
    purge(tmp_path)
    assert files_in(tmp_path) == theirs
    assert empty.is_dir()


@pytest.mark.parametrize("token_file", ["/var/lib/geosched/tokens.json", "tokens.json"])
def test_tokens_that_the_daemon_keeps_go(tmp_path: Path, token_file: str):
    write(below(tmp_path, DEFAULT_CONFIG), OAUTH.format(token_file))
    tokens = below(tmp_path, DEFAULT_CONFIG.parent / token_file)
    write(tokens)
    write(tokens.with_name(f"{tokens.name}.lock"))
    purge(tmp_path)
    assert not files_in(tmp_path)


def test_a_secret_goes_where_init_keeps_it_and_stays_elsewhere(tmp_path: Path):
    for name in ("token", "secrets/token", "client-secret"):
        write(below(tmp_path, f"/etc/geosched/{name}"))
    named = 'token_file = "/etc/geosched/{}"\noauth_client_secret_file = "/etc/geosched/{}"\n'
    write(below(tmp_path, DEFAULT_CONFIG), named.format("token", "client-secret"))
    purge(tmp_path)
    assert files_in(tmp_path) == {"/etc/geosched/secrets/token"}
    write(below(tmp_path, DEFAULT_CONFIG), named.format("secrets/token", "mine"))
    purge(tmp_path)
    assert files_in(tmp_path) == {"/etc/geosched/secrets/token"}


def test_reports_go_and_the_actions_of_who_reads_them_stay(tmp_path: Path):
    actions = below(tmp_path, "/var/lib/geosched/actions.json")
    write(below(tmp_path, DEFAULT_CONFIG), '[backend]\npath = "/var/lib/geosched/actions.json"\n')
    write(actions)
    write(status_journal(str(actions)))
    purge(tmp_path)
    assert files_in(tmp_path) == {"/var/lib/geosched/actions.json"}


@pytest.mark.parametrize(
    "token_file", ["/root/tokens", "/etc/geosched/../../root/tokens", "../../root/tokens"]
)
def test_a_configuration_names_nothing_elsewhere_that_would_go(tmp_path: Path, token_file: str):
    write(below(tmp_path, DEFAULT_CONFIG), OAUTH.format(token_file))
    write(below(tmp_path, "/root/tokens"))
    purge(tmp_path)
    assert files_in(tmp_path) == {"/root/tokens"}


def test_a_state_directory_on_another_disk_is_emptied_and_its_link_stays(tmp_path: Path):
    disk = below(tmp_path, "/disk")
    write(disk / "daemondb" / "data.mdb")
    link = below(tmp_path, DEFAULT_STATE_DIR)
    link.parent.mkdir(parents=True)
    link.symlink_to(disk)
    purge(tmp_path)
    assert not [*disk.iterdir()]
    assert link.is_symlink()


@pytest.mark.parametrize("why", ["remove", "upgrade"])
def test_removal_and_upgrade_leave_everything(tmp_path: Path, why: str):
    for path in made_by_the_daemon(tmp_path):
        write(path)
    before = files_in(tmp_path)
    subprocess.run(
        [DEPLOY / "debian" / "postrm", why],
        env=os.environ | {"DPKG_ROOT": str(tmp_path)},
        timeout=30,
        check=True,
    )
    assert files_in(tmp_path) == before
