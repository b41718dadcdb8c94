"""What is pinned: by hash, for every platform, and as pyproject.toml asks."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.paths import ROOT

ASKED_IN = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = ASKED_IN["project"]
EXTRAS = PROJECT["optional-dependencies"]
#: The extra of tests has that of tables in it.
TESTS = [each for each in EXTRAS["dev"] if each != "geosched[tables]"]
#: Of each file of pins what it must hold, as pyproject.toml asks.
ASKED = {
    "daemon": PROJECT["dependencies"],
    "tables": [*PROJECT["dependencies"], *EXTRAS["tables"]],
    "dev": [*PROJECT["dependencies"], *EXTRAS["tables"], *TESTS],
    "supply": ASKED_IN["dependency-groups"]["supply"],
}
#: In C, with a wheel for each platform; the fewest of each release, that on a slow mirror.
COMPILED = {"pyzmq": 20, "lmdb": 10, "msgspec": 20, "setproctitle": 20}
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def text_of(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text()


def pins(name: str) -> dict[str, tuple[Requirement, frozenset[str]]]:
    """The requirements of a file, with their hashes."""
    lines = re.sub(r"\\\n", " ", text_of(name)).splitlines()
    given = [line for line in lines if line.strip() and not line.startswith("#")]
    found = {}
    for line in given:
        requirement = Requirement(line.partition(" --hash")[0].strip())
        found[canonicalize_name(requirement.name)] = requirement, frozenset(HASH.findall(line))
    assert len(found) == len(given), "one release for all hosts"
    return found


def version(requirement: Requirement) -> str:
    (only,) = requirement.specifier
    assert only.operator == "==", requirement
    return only.version


def test_every_file_of_pins_is_looked_at() -> None:
    assert {path.stem for path in (ROOT / "requirements").iterdir()} == ASKED.keys()


@pytest.mark.parametrize("name", ASKED)
def test_what_is_asked_for_is_pinned_to_a_release_that_is_allowed(name: str) -> None:
    pinned = pins(name)
    for asked in map(Requirement, ASKED[name]):
        requirement, _ = pinned[canonicalize_name(asked.name)]
        assert asked.specifier.contains(version(requirement)), (asked, requirement)


@pytest.mark.parametrize("name", ASKED)
def test_every_pin_has_its_hashes_and_names_no_index(name: str) -> None:
    assert {each for each, (_, hashes) in pins(name).items() if not hashes} == set()
    assert "://" not in text_of(name)
    assert "index" not in text_of(name)


def test_tests_run_with_what_the_daemon_runs_with() -> None:
    pinned = pins("dev")
    for name, (requirement, hashes) in pins("daemon").items():
        assert str(pinned[name][0]) == str(requirement)
        assert pinned[name][1] == hashes


@pytest.mark.parametrize("name", COMPILED)
def test_what_is_compiled_has_the_hashes_of_all_platforms(name: str) -> None:
    _, hashes = pins("daemon")[name]
    assert len(hashes) >= COMPILED[name]


def test_what_builds_the_package_is_pinned_too() -> None:
    pinned = pins("dev")
    for asked in map(Requirement, ASKED_IN["build-system"]["requires"]):
        assert asked.specifier.contains(version(pinned[canonicalize_name(asked.name)][0]))


def test_nothing_installs_without_hashes() -> None:
    """Of what we install ourselves; a user's own `pip install .` is theirs."""
    for path in (Path("Makefile"), Path("tests/support/installed.py")):
        text = (ROOT / path).read_text()
        assert "--require-hashes" in text
        assert "--no-build-isolation" in text
