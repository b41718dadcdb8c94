"""Debian's packaging names the same bounds and the same version as the Python package."""

import re
import tomllib

import geosched
import pytest
from support.paths import DEPLOY, ROOT

CONTROL = (DEPLOY / "debian" / "control").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: Debian names a package of Python by its module.
NAMES = {"pyzmq": "zmq"}


def bounds_of(field: str) -> dict[str, set[tuple[str, str]]]:
    """What a field of `control` asks of each package of Python."""
    found = re.search(rf"^{field}: ?((?:.*\n)(?: .*\n)*)", CONTROL, re.MULTILINE)
    assert found, field
    bounds: dict[str, set[tuple[str, str]]] = {}
    for name, relation, version in re.findall(r"python3-(\S+) \((\S+) ([^)]+)\)", found[1]):
        bounds.setdefault(name, set()).add((relation, version))
    return bounds


def bounds_in(requirements: list[str]) -> dict[str, set[tuple[str, str]]]:
    """The same of requirements of Python."""
    bounds = {}
    for requirement in requirements:
        split = re.fullmatch(r"([a-z0-9]+)>=([\d.]+),<([\d.]+)", requirement)
        assert split, requirement
        bounds[NAMES.get(split[1], split[1])] = {(">=", split[2]), ("<<", split[3])}
    return bounds


def test_the_package_depends_on_what_the_wheel_requires():
    required = [each for each in PROJECT["dependencies"] if not each.startswith("rich")]
    assert bounds_of("Depends") == bounds_in(required)


def test_rich_is_recommended_within_its_bounds():
    every = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"].get("tables", [])]
    assert bounds_of("Recommends") == bounds_in([each for each in every if each.startswith("rich")])


def test_its_version_is_that_of_the_code():
    changelog = (DEPLOY / "debian" / "changelog").read_text()
    newest = re.match(r"geosched \(([^)]+)\) ", changelog)
    assert newest
    debian = re.sub(r"\.?(a|b|rc|dev)(\d+)$", r"~\1\2", geosched.__version__)
    assert newest[1] == debian


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_what_debhelper_adds_to_its_scripts_has_a_place(name: str):
    assert "\n#DEBHELPER#\n" in (DEPLOY / "debian" / name).read_text()
