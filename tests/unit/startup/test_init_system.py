"""Which init a host has, and what it does with the daemon, is seen by its files."""

from pathlib import Path

import pytest
from geosched.supervisor.startup.first_run import init_system

SYSTEMD = ("run/systemd/system/", "usr/lib/systemd/system/geosched.service")


def host(root: Path, *paths: str, first: str = "init") -> Path:
    """A host with these files; a path that ends with a slash is a directory."""
    for path in paths:
        place = root / path
        (place if path.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
        if not path.endswith("/"):
            place.touch()
    (root / "proc/1").mkdir(parents=True)
    (root / "proc/1/comm").write_text(f"{first}\n")
    return root


@pytest.mark.parametrize(
    ("first", "paths", "name", "unit", "enabled", "enable"),
    [
        ("systemd", SYSTEMD, "systemd", f"/{SYSTEMD[1]}", False, "enable --now geosched"),
        (
            "systemd",
            (*SYSTEMD, "etc/systemd/system/multi-user.target.wants/geosched.service"),
            *("systemd", f"/{SYSTEMD[1]}", True, "systemctl start geosched"),
        ),
        (
            "systemd",
            (*SYSTEMD, "etc/systemd/system/geosched.service"),
            *("systemd", "/etc/systemd/system/geosched.service", False, "systemctl"),
        ),
        ("systemd", SYSTEMD[:1], "systemd", "", False, ""),
        (
            "init",
            ("run/openrc/softlevel", "etc/init.d/geosched"),
            *("OpenRC", "/etc/init.d/geosched", False, "rc-update add geosched && rc-service"),
        ),
        (
            "init",
            ("run/openrc/softlevel", "etc/init.d/geosched", "etc/runlevels/default/geosched"),
            *("OpenRC", "/etc/init.d/geosched", True, "rc-service geosched start"),
        ),
        (
            "init",
            ("etc/init.d/geosched", "etc/rc2.d/"),
            *("sysvinit", "/etc/init.d/geosched", False, "update-rc.d geosched defaults"),
        ),
        (
            "init",
            ("etc/init.d/geosched", "etc/rc2.d/S03geosched"),
            *("sysvinit", "/etc/init.d/geosched", True, "service geosched start"),
        ),
        (
            "runit",
            ("etc/sv/geosched/run", "etc/service/"),
            *("runit", "/etc/sv/geosched", False, "ln -s /etc/sv/geosched /etc/service/"),
        ),
        (
            "runit",
            ("etc/sv/geosched/run", "etc/service/geosched/run"),
            *("runit", "/etc/sv/geosched", True, "sv up geosched"),
        ),
        ("s6-svscan", ("run/service/geosched/run",), "s6", "", True, "s6-svc -u /run/service"),
        (
            "procd",
            ("etc/init.d/geosched",),
            *("procd", "/etc/init.d/geosched", False, "/etc/init.d/geosched enable && "),
        ),
        (
            "procd",
            ("etc/init.d/geosched", "etc/rc.d/S95geosched"),
            *("procd", "/etc/init.d/geosched", True, "/etc/init.d/geosched start"),
        ),
        ("busybox", (), "busybox", "", False, ""),
    ],
)
def test_an_init_is_known_by_its_files(
    tmp_path: Path,
    first: str,
    paths: tuple[str, ...],
    name: str,
    unit: str,
    enabled: bool,
    enable: str,
) -> None:
    found = init_system.found(host(tmp_path, *paths, first=first))
    assert (found.name, found.unit, found.enabled) == (name, unit, enabled)
    assert enable in found.enable


@pytest.mark.parametrize("active", [True, False])
def test_a_line_in_inittab_has_init_keep_the_daemon(tmp_path: Path, active: bool) -> None:
    root = host(tmp_path, "etc/rc2.d/")
    mark = "" if active else "#"
    (root / "etc/inittab").write_text(f"{mark}gs:2345:respawn:/usr/bin/geoschedd\n")
    found = init_system.found(root)
    assert found.enabled is active
    assert found.restarts is active


def test_sysvinit_starts_no_killed_daemon_again(tmp_path: Path) -> None:
    assert not init_system.found(host(tmp_path, "etc/init.d/geosched")).restarts


def test_a_container_without_an_init_is_known(tmp_path: Path) -> None:
    assert init_system.found(host(tmp_path, ".dockerenv", first="sh")).container
