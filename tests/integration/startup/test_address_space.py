"""A database larger than the address space that the daemon may use: one sentence, before and at
the start."""

import subprocess
from collections.abc import Iterator

import pytest
from support.daemon import Daemon, commands, daemon_installation

EXIT_SETTINGS = 2
ADDRESS_SPACE_KIB = 8 * 1024**2


@pytest.fixture
def installed() -> Iterator[Daemon]:
    with daemon_installation() as one:
        yield one


@pytest.mark.parametrize("arguments", [["--check"], []], ids=["check", "start"])
def test_a_map_that_does_not_fit_is_told_by_its_key(installed: Daemon, arguments: list[str]):
    installed.configure(scripts={"default": {"command": ["/bin/true"]}}, map_size="64GiB")
    command = [commands() / "geoschedd", "--config", installed.config, *arguments]
    done = subprocess.run(
        ["sh", "-c", f'ulimit -v {ADDRESS_SPACE_KIB} && exec "$@"', "sh", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == EXIT_SETTINGS
    (line,) = done.stderr.splitlines()
    assert "daemon.map_size: 68719476736 bytes cannot be mapped" in line
    assert line.endswith("Cannot allocate memory")
