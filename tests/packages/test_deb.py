"""The Debian package in a minimal Debian 13: installed, used, upgraded, purged."""

import re
import shutil
from pathlib import Path

import pytest
from support.paths import ROOT
from support.tree import Copies, Tree, with_python

MEGABYTE = 1_000_000
UNITS = {"B": 1, "kB": 1000, "MB": MEGABYTE}
FETCHED_BYTES_MAX = 12 * MEGABYTE
INSTALLED_BYTES_MAX = 16 * MEGABYTE

#: What dpkg, apt and the C library keep for themselves; and the group may stay.
BOOKKEEPING = re.compile(
    r"/(var/lib/(dpkg|apt)|var/cache/(apt|debconf|ldconfig)|var/log/(apt|dpkg\.log|alternatives\.log)"
    r"|etc/(group|gshadow)-?|tmp)(/|$)"
)
CONFIGURATION = """
[backend]
kind = "file"
path = "/var/lib/geosched/actions.json"
poll_interval = "200ms"
[scripts.default]
command = ["/usr/lib/geosched/scripts/block-apps", "--apps={apps}"]
"""
#: A daemon that has had an action, a backup and a report, and is gone again.
LIFE = """
geoschedd 2>/tmp/log & pid=$!
for _ in $(seq 150); do geosched-ctl ping >/dev/null 2>&1 && break; sleep 0.2; done
at() { date -u -d "@$(($(date +%s) + $1))" +%Y-%m-%dT%H:%M:%SZ; }
cat >/var/lib/geosched/actions.json <<JSON
[{"id": "a", "fromDate": "$(at -5)", "toDate": "$(at 600)", "shouldBeExecuted": true,
  "appNames": ["x"]}]
JSON
for _ in $(seq 150); do geosched-ctl show a | grep -q STARTED && break; sleep 0.2; done
geosched-ctl show a || { cat /tmp/log; exit 1; }
geosched-ctl stop a && geosched-ctl db backup /var/lib/geosched/mine
geosched-ctl shutdown && wait "$pid"
"""


@pytest.fixture
def bare(copies: Copies, deb: Path) -> Tree:
    """Debian 13 with python3 and the package's file, not installed."""
    tree = copies.of(with_python("trixie"))
    shutil.copy(deb, tree.root / "geosched_all.deb")
    return tree


@pytest.fixture(scope="session")
def dependencies(session_copies: Copies, deb: Path) -> Tree:
    """The same with what the package depends on, and without it."""
    tree = session_copies.of(with_python("trixie"))
    shutil.copy(deb, tree.root / "geosched_all.deb")
    tree.apt("install", "./geosched_all.deb")
    tree.apt("purge", "geosched")
    return tree


@pytest.fixture
def host(copies: Copies, dependencies: Tree) -> Tree:
    tree = copies.of(dependencies)
    tree.apt("install", "./geosched_all.deb")
    return tree


def configure(tree: Tree) -> None:
    (tree.root / "etc/geosched/geosched.toml").write_text(CONFIGURATION)


def amount(text: str) -> float:
    found = re.fullmatch(r"([\d.,]+) (k?M?B)", text)
    assert found, text
    return float(found[1].replace(",", "")) * UNITS[found[2]]


def test_apt_fetches_and_installs_little_beyond_python(bare: Tree):
    said = bare.run(
        *("apt-get", "install", "--no-install-recommends", "--assume-no", "./geosched_all.deb"),
        check=False,
    ).stdout
    fetched = re.search(r"Need to get (?:[\d.,]+ k?M?B/)?([\d.,]+ k?M?B) of archives", said)
    installed = re.search(r"operation, ([\d.,]+ k?M?B) of additional disk space", said)
    assert fetched, said
    assert installed, said
    print(f"apt fetches {fetched[1]} and installs {installed[1]}")
    assert amount(fetched[1]) <= FETCHED_BYTES_MAX, said
    assert amount(installed[1]) <= INSTALLED_BYTES_MAX, said


def test_neither_pip_nor_a_compiler_comes_along(host: Tree):
    installed = host.sh("dpkg-query -W -f '${Package}\\n'").split()
    assert not {"python3-pip", "gcc", "cpp", "python3-rich", "systemd"} & set(installed)
    assert "geosched" in installed


def test_acceptance(host: Tree):
    """SPEC by the commands of the package, with its libraries and its Python."""
    suite = host.root / "suite"
    suite.mkdir()
    for name in ("tests", "requirements", "deploy", "docs"):
        shutil.copytree(ROOT / name, suite / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", suite)
    plugins = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "trustme")
    host.apt("install", *(f"python3-{name}" for name in plugins))
    done = host.run(
        *("sh", "-c", "cd /suite && python3 -m pytest -q -p no:cacheprovider tests/acceptance"),
        environment={"GEOSCHED_TEST_BIN": "/usr/bin"},
        seconds_max=1800,
        check=False,
    )
    print(done.stdout[-3000:])
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ passed", done.stdout)


def test_purge_leaves_the_tree_as_it_was(host: Tree):
    """But for what somebody else made in its directories."""
    host.apt("purge", "geosched")
    before = {path: what for path, what in host.entries().items() if not BOOKKEEPING.match(path)}
    host.apt("install", "./geosched_all.deb")
    configure(host)
    assert "STARTED" in host.sh(LIFE)
    (host.root / "etc/geosched/token").write_text("mine")
    host.apt("purge", "geosched")
    left = {path: what for path, what in host.entries().items() if not BOOKKEEPING.match(path)}
    theirs = {
        "/etc/geosched",
        "/etc/geosched/token",
        "/var/lib/geosched",
        "/var/lib/geosched/actions.json",
        "/var/lib/geosched/mine",
        "/var/lib/geosched/mine/data.mdb",
    }
    assert left.keys() - before.keys() == theirs
    assert not before.keys() - left.keys()
    changed = {path for path in before if before[path] != left[path] and Path(path).name != "tmp"}
    assert not changed


def test_removal_keeps_configuration_and_database(host: Tree):
    configure(host)
    host.sh(LIFE)
    host.apt("remove", "geosched")
    for kept in ("etc/geosched/geosched.toml", "var/lib/geosched/daemondb/data.mdb"):
        assert (host.root / kept).exists()
    assert not (host.root / "usr/bin/geoschedd").exists()
    assert not [*(host.root / "usr/lib/python3/dist-packages").glob("geosched*")]


def test_removal_stops_the_daemon(host: Tree):
    configure(host)
    allow_services(host)
    host.sh(
        "set -e; /etc/init.d/geosched start; pid=$(cat /run/geoschedd.pid)\n"
        "apt-get -q -y -o Dpkg::Use-Pty=0 remove geosched; ! kill -0 $pid"
    )


def newer(tree: Tree) -> None:
    """The same package with a later version, as /newer.deb."""
    tree.sh(
        "rm -rf /newer && dpkg-deb -R /geosched_all.deb /newer"
        " && sed -i 's/^Version: .*/&+1/' /newer/DEBIAN/control && dpkg-deb -b /newer /newer.deb"
    )


def allow_services(tree: Tree) -> None:
    """Have packages start and stop services there as on a booted host."""
    policy = tree.root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 104\n")
    policy.chmod(0o755)


def test_an_upgrade_starts_again_what_ran_and_keeps_all(host: Tree):
    """By the init script; without an init that was booted it takes a policy."""
    newer(host)
    configure(host)
    allow_services(host)
    host.sh("echo '#FROM=mine' >>/etc/default/geosched")
    said = host.sh(
        "set -e; /etc/init.d/geosched start; old=$(cat /run/geoschedd.pid)\n"
        "apt-get -q -y -o Dpkg::Use-Pty=0 install /newer.deb\n"
        'new=$(cat /run/geoschedd.pid); echo "pids $old $new"\n'
        "dpkg-query -W geosched; geosched-ctl ping; tail -n 1 /etc/default/geosched\n"
        "/etc/init.d/geosched stop"
    )
    pids = re.search(r"pids (\d+) (\d+)", said)
    assert pids, said
    assert pids[1] != pids[2], said
    assert "+1\n" in said
    assert "#FROM=mine" in said


def test_an_upgrade_starts_nothing_that_did_not_run(host: Tree):
    newer(host)
    configure(host)
    said = host.sh(
        "apt-get -q -y -o Dpkg::Use-Pty=0 install /newer.deb; geosched-ctl ping 2>&1; true"
    )
    assert "cannot" in said.lower()
    assert not (host.root / "run/geoschedd.pid").exists()


def test_members_of_its_group_may_look_and_not_act(host: Tree):
    configure(host)
    host.apt("install", "systemd")
    said = host.sh(
        "systemd-tmpfiles --create geosched.conf; stat -c '%U:%G %a' /run/geosched\n"
        "geoschedd 2>/tmp/log & for _ in $(seq 150); do geosched-ctl ping >/dev/null 2>&1 && break;"
        " sleep 0.2; done\n"
        "gid=$(getent group geosched | cut -d : -f 3)\n"
        "setpriv --reuid 4711 --regid $gid --clear-groups geosched-ctl status | head -n 3\n"
        'setpriv --reuid 4711 --regid $gid --clear-groups geosched-ctl shutdown; echo "acts $?"\n'
        'setpriv --reuid 4711 --regid 4711 --clear-groups geosched-ctl ping; echo "others $?"\n'
        "stat -c '%U:%G %a' /run/geosched; geosched-ctl shutdown; wait"
    )
    assert said.startswith("root:geosched 750\n"), said
    assert "acts 4" in said
    assert "others 4" in said
    assert said.count("root:geosched 75") == 2


def test_without_systemd_the_init_script_gives_its_group_the_directory(host: Tree):
    configure(host)
    shutil.rmtree(host.root / "run/geosched", ignore_errors=True)
    said = host.sh(
        "/etc/init.d/geosched start; stat -c '%U:%G %a' /run/geosched /run/geosched/control.sock\n"
        "/etc/init.d/geosched stop"
    )
    assert "root:geosched 750\nroot:geosched 660\n" in said
