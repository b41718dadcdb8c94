"""The bundle in a minimal Debian 12: installed without a network, used, replaced, removed."""

import re
import shutil
from pathlib import Path

import pytest
from support.paths import ROOT
from support.tree import Copies, Tree, with_python

CONFIGURATION = """
[backend]
kind = "file"
path = "/srv/actions.json"
[scripts.default]
command = ["/opt/geosched/lib/geosched/scripts/block-apps", "--apps={apps}"]
"""
ASKED = (
    "echo '[]' >/srv/actions.json; $CTL --version; geoschedd=${CTL%-ctl}d; $geoschedd --check\n"
    "$geoschedd 2>/tmp/log & for _ in $(seq 150); do $CTL ping >/dev/null 2>&1 && break;"
    " sleep 0.2; done\n"
    "$CTL status || cat /tmp/log; $CTL list; $CTL db check; $CTL shutdown; wait $!; echo left $?"
)


@pytest.fixture
def host(copies: Copies, bundle: Path) -> Tree:
    """Debian 12 with python3 and the bundle, unpacked."""
    tree = copies.of(with_python("bookworm"))
    shutil.copy(bundle, tree.root / "bundle.tar.gz")
    tree.sh("mkdir /bundle && tar -C /bundle --strip-components 1 -xzf /bundle.tar.gz")
    return tree


def install(tree: Tree, prefix: str = "/opt/geosched", init: str = "systemd") -> str:
    return tree.sh(f"INIT={init} /bundle/install.sh {prefix}", network=False)


def configure(tree: Tree) -> None:
    place = tree.root / "etc/geosched/geosched.toml"
    place.parent.mkdir(exist_ok=True)
    place.write_text(CONFIGURATION)


def test_it_is_installed_without_a_network_and_works(host: Tree):
    said = install(host)
    assert "installed /opt/geosched/bin/geoschedd\n" in said
    configure(host)
    used = host.run(
        "sh", "-c", ASKED, network=False, environment={"CTL": "/opt/geosched/bin/geosched-ctl"}
    ).stdout
    assert "all is well" in used, used
    assert used.endswith("left 0\n"), used


@pytest.mark.parametrize(("init", "unit"), [("systemd", "/etc/systemd"), ("sysv", "/etc/init.d")])
def test_what_is_put_there_is_removed_again(host: Tree, init: str, unit: str):
    before = host.entries()
    said = install(host, init=init)
    assert unit in said
    configure(host)
    host.sh("/opt/geosched/lib/geosched/uninstall.sh", network=False)
    left = host.entries().keys() - before.keys()
    made = {path for path in left if not (host.root / path.lstrip("/")).is_dir()}
    assert made == {"/etc/geosched/geosched.toml"}
    assert not before.keys() - host.entries().keys()
    assert not [path for path in left if path.startswith("/opt/")]


def test_it_goes_on_when_the_interpreter_becomes_a_later_one(host: Tree, copies: Copies):
    """Installed on Debian 12 with Python 3.11, whose root is that of Debian 13 from then on."""
    install(host)
    later = copies.of(with_python("trixie"))
    shutil.copytree(host.root / "opt/geosched", later.root / "opt/geosched", symlinks=True)
    configure(later)
    used = later.run(
        "sh", "-c", ASKED, network=False, environment={"CTL": "/opt/geosched/bin/geosched-ctl"}
    ).stdout
    assert "all is well" in used, used
    assert used.endswith("left 0\n"), used


def test_a_python_that_it_has_nothing_for_is_named(host: Tree):
    install(host)
    libraries = host.root / "opt/geosched/lib/geosched/python"
    shutil.rmtree(libraries / "lib/python3.11")
    done = host.run("/opt/geosched/bin/geosched-ctl", "--version", check=False)
    assert done.returncode == 1
    assert "has nothing for Python 3.11" in done.stdout
    shutil.rmtree(host.root / "bundle/wheels/3.11")
    done = host.run("/bundle/install.sh", check=False)
    assert done.returncode == 2
    assert "is Python 3.11, and this is for 3.12" in done.stdout


def test_a_second_installation_replaces_the_first_and_keeps_what_was_changed(host: Tree):
    install(host, init="sysv")
    default = host.root / "etc/default/geosched"
    default.write_text("STOP_SECONDS=90\n")
    stale = host.root / "opt/geosched/lib/geosched/python/lib/any/stale.py"
    stale.touch()
    install(host, init="sysv")
    assert not stale.exists()
    assert default.read_text() == "STOP_SECONDS=90\n"
    said = host.sh("/opt/geosched/lib/geosched/uninstall.sh")
    assert "kept    /etc/default/geosched, which was changed" in said
    assert default.exists()


def test_acceptance(host: Tree):
    """SPEC by the commands of the bundle: its libraries, its sys.path, this host's Python."""
    install(host)
    suite = host.root / "suite"
    suite.mkdir()
    for name in ("tests", "requirements", "deploy", "docs"):
        shutil.copytree(ROOT / name, suite / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", suite)
    plugins = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "trustme")
    host.apt("install", *(f"python3-{name}" for name in plugins))
    # For the suite itself; the commands do not look there.
    libraries = "/opt/geosched/lib/geosched/python/lib"
    place = host.root / "usr/local/lib/python3.11/dist-packages/geosched.pth"
    place.write_text(f"{libraries}/any\n{libraries}/python3.11/site-packages\n")
    pytest_there = "python3 -m pytest -q -p no:cacheprovider -o minversion=7 tests/acceptance"
    done = host.run(
        *("sh", "-c", f"cd /suite && {pytest_there}"),
        environment={"GEOSCHED_TEST_BIN": "/opt/geosched/bin"},
        seconds_max=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ passed", done.stdout)
