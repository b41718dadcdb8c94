"""The installer: what each init gets, and what stays the operator's."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.installing import install
from support.paths import DEPLOY


@pytest.fixture
def root() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="gs-", dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def test_the_installer_keeps_what_is_the_operators(root: Path) -> None:
    assert install(root).returncode == 0
    example = root / "usr/share/geosched/geosched.example.toml"
    assert f"{root}/usr/lib/geosched/scripts/block-apps" in example.read_text()
    (root / "etc/default/geosched").write_text("mine")
    script = root / "usr/lib/geosched/scripts/block-apps"
    script.write_text("old")
    assert install(root).returncode == 0
    assert (root / "etc/default/geosched").read_text() == "mine"
    for _ in range(2):
        assert install(root, INIT="openrc").returncode == 0
        settings = root / "etc/conf.d/geosched"
        kept = settings.read_text()
        settings.write_text("mine")
    assert kept == "mine"
    assert script.read_text() == (DEPLOY / "scripts/block-apps").read_text()
    assert os.access(script, os.X_OK)


def test_the_installer_writes_no_configuration_and_says_what_does(root: Path) -> None:
    """A host that nobody has configured must not begin to work by itself."""
    config = root / "etc/geosched/geosched.toml"
    assert f"geosched-ctl init, which writes {config}" in install(root).stdout
    assert not config.exists()
    config.parent.mkdir()
    config.write_text("mine")
    assert "geosched-ctl init" not in install(root).stdout
    assert config.read_text() == "mine"


@pytest.mark.parametrize(
    ("init", "file"),
    [
        ("systemd", "usr/lib/systemd/system/geosched.service"),
        ("openrc", "etc/init.d/geosched"),
        ("sysv", "etc/init.d/geosched"),
        ("sysv", "usr/share/geosched/inittab.example"),
        ("runit", "etc/sv/geosched/run"),
        ("s6", "etc/s6/sv/geosched/run"),
        ("procd", "etc/init.d/geosched"),
        ("none", "usr/share/geosched/inittab.example"),
    ],
)
def test_each_init_gets_its_own(root: Path, init: str, file: str) -> None:
    """Below DESTDIR, with the paths that will hold once that is the root."""
    variables = {"DESTDIR": str(root), "PREFIX": "/usr", "SYSCONFDIR": "/etc"}
    assert install(root, INIT=init, **variables).returncode == 0
    text = (root / file).read_text()
    assert "/usr/bin/geoschedd" in text
    assert str(root) not in text


@pytest.mark.parametrize(
    ("prefix", "file"),
    [
        ("/usr", "usr/lib/systemd/system/geosched.service"),
        ("/usr/local", "usr/local/lib/systemd/system/geosched.service"),
        ("/opt/geosched", "etc/systemd/system/geosched.service"),
    ],
)
def test_the_unit_is_where_systemd_looks(root: Path, prefix: str, file: str) -> None:
    variables = {"DESTDIR": str(root), "PREFIX": prefix, "SYSCONFDIR": "/etc"}
    assert install(root, INIT="systemd", **variables).returncode == 0
    assert [path.relative_to(root) for path in root.rglob("geosched.service")] == [Path(file)]
    assert f"ExecStart={prefix}/bin/geoschedd " in (root / file).read_text()


@pytest.mark.parametrize("init", ["runit", "s6"])
def test_a_service_directory_has_all_that_its_supervisor_runs(root: Path, init: str) -> None:
    assert install(root, INIT=init).returncode == 0
    (place,) = root.glob("etc/**/sv/geosched")
    for name in ("run", "finish", "log/run"):
        assert os.access(place / name, os.X_OK), name


@pytest.mark.parametrize("variables", [{"INIT": "upstart"}, {"PREFIX": "usr"}, {"PREFIX": "/a|b"}])
def test_the_installer_refuses_what_it_cannot_use(root: Path, variables: dict[str, str]) -> None:
    refused = install(root, **variables)
    assert refused.returncode == 2
    assert "install.sh: cannot use" in refused.stderr
    assert list(root.iterdir()) == []


def test_the_unit_is_one_that_systemd_takes(root: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/geoschedd").symlink_to("/bin/true")
    assert install(root, INIT="systemd").returncode == 0
    done = subprocess.run(
        ["systemd-analyze", "verify", root / "etc/systemd/system/geosched.service"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


SHELL_SCRIPTS = [
    *("install.sh", "init.d/geosched", "default/geosched", "openrc/geosched", "procd/geosched"),
    "openrc/geosched.confd",
    *("runit/run", "runit/finish", "runit/log/run", "s6/run", "s6/finish", "s6/log/run"),
]


@pytest.mark.parametrize("file", SHELL_SCRIPTS)
def test_shell_scripts_are_posix_and_clean(file: str) -> None:
    # openrc-run and rc.common read variables of these two, and shellcheck does not know the first.
    foreign = (
        file.split("/", maxsplit=1)[0] in ("openrc", "procd") or shutil.which("shellcheck") is None
    )
    command = ["sh", "-n"] if foreign else ["shellcheck", "-s", "sh"]
    done = subprocess.run(
        [*command, DEPLOY / file], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
