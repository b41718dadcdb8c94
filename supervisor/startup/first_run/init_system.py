"""The init of this host: which it is, whether it has a unit for the daemon, and how it is told to
run it.

It looks at files, and asks no program: what an init would say about itself is in them.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

from .diagnosis import Init

NAME = "geosched"
Command: TypeAlias = tuple[str, ...]

#: Of a unit that the administrator made, before those of packages (systemd.unit(5)).
_SYSTEMD_UNITS = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)
_RUNIT_SERVICES = ("etc/sv", "etc/runit/sv")
_RUNIT_RUNNING = ("etc/service", "var/service", "service", "etc/runit/runsvdir/default")
_S6_SERVICES = ("etc/s6/sv", "etc/s6", "etc/sv")
_S6_RUNNING = ("etc/s6/service", "run/service", "service", "etc/s6/rc/default")
_CONTAINER_MARKS = ("run/.containerenv", ".dockerenv")


class Known(NamedTuple):
    """What an init has: its name, and the file that is the daemon's unit, "" for none.

    `enabled`: it starts the daemon at each boot; by `enable` it is told to do so, from now on, and
    by `start` to start it now, by `reload` to have it read its configuration again. `restarts`:
    also when the daemon was killed.
    """

    name: str
    unit: str
    enabled: bool
    enable: tuple[Command, ...]
    start: Command
    reload: Command
    restarts: bool = True


def found(root: Path = Path("/")) -> Init:
    """Return the init of the host whose files are below `root`."""
    known = look(root)
    commands = known.enable if not known.enabled else (known.start,)
    return Init(
        known.name,
        known.unit,
        known.enabled,
        " && ".join(map(" ".join, commands)),
        known.restarts,
        any((root / mark).exists() for mark in _CONTAINER_MARKS) and not known.unit,
    )


def look(root: Path = Path("/")) -> Known:
    """Return the init, with its unit for the daemon, if it has one."""
    first = _first_process(root)
    if (root / "run/systemd/system").is_dir():
        return _systemd(root)
    if first == "procd":
        return _procd(root)
    if first.startswith("runit"):
        return _runit(root)
    if first.startswith("s6-"):
        return _s6(root)
    if (root / "run/openrc/softlevel").exists() or first == "openrc-init":
        return _openrc(root)
    return _sysvinit(root, first)


def _systemd(root: Path) -> Known:
    unit = _first(root, [f"{place}/{NAME}.service" for place in _SYSTEMD_UNITS])
    enabled = _any(root, f"etc/systemd/system/*.wants/{NAME}.service")
    start, reload = ("systemctl", "start", NAME), ("systemctl", "reload", NAME)
    enable = (("systemctl", "enable", "--now", NAME),)
    return Known("systemd", unit, enabled, enable, start, reload)


def _openrc(root: Path) -> Known:
    unit = _first(root, [f"etc/init.d/{NAME}"])
    start, reload = ("rc-service", NAME, "start"), ("rc-service", NAME, "reload")
    enable = (("rc-update", "add", NAME), start)
    # Its script has supervise-daemon start it again.
    return Known("OpenRC", unit, _any(root, f"etc/runlevels/*/{NAME}"), enable, start, reload)


def _procd(root: Path) -> Known:
    unit = _first(root, [f"etc/init.d/{NAME}"])
    script = f"/etc/init.d/{NAME}"
    start, reload = (script, "start"), (script, "reload")
    enable = ((script, "enable"), start)
    return Known("procd", unit, _any(root, f"etc/rc.d/S??{NAME}"), enable, start, reload)


def _runit(root: Path) -> Known:
    start, reload = ("sv", "up", NAME), ("sv", "hup", NAME)
    return _linked(root, "runit", _RUNIT_SERVICES, _RUNIT_RUNNING, start, reload)


def _s6(root: Path) -> Known:
    service = f"{_first(root, _S6_RUNNING) or f'/{_S6_RUNNING[0]}'}/{NAME}"
    start, reload = ("s6-svc", "-u", service), ("s6-svc", "-h", service)
    return _linked(root, "s6", _S6_SERVICES, _S6_RUNNING, start, reload)


def _linked(
    root: Path,
    name: str,
    services: Sequence[str],
    running: Sequence[str],
    start: Command,
    reload: Command,
) -> Known:
    """Look at an init that runs the services which are linked into a directory."""
    unit = _first(root, [f"{place}/{NAME}" for place in services])
    into = _first(root, running) or f"/{running[0]}"
    enabled = any(os.path.lexists(root / place / NAME) for place in running)
    return Known(name, unit, enabled, (("ln", "-s", unit, f"{into}/"),), start, reload)


def _sysvinit(root: Path, first: str) -> Known:
    if _in_inittab(root):
        again: Command = ("init", "q")
        told = ("kill", "-HUP", "$(pidof -x geoschedd)")
        return Known("init", "/etc/inittab", True, (again,), again, told)
    unit = _first(root, [f"etc/init.d/{NAME}"])
    start, reload = ("service", NAME, "start"), ("service", NAME, "reload")
    enable = (("update-rc.d", NAME, "defaults"), start)
    name = "sysvinit" if unit or (root / "etc/rc2.d").is_dir() else first or "no init known here"
    enabled = _any(root, f"etc/rc[2-5].d/S??{NAME}")
    return Known(name, unit, enabled, enable, start, reload, restarts=False)


def _in_inittab(root: Path) -> bool:
    try:
        lines = (root / "etc/inittab").read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any("geoschedd" in line for line in lines if not line.lstrip().startswith("#"))


def _first_process(root: Path) -> str:
    try:
        return (root / "proc/1/comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def _first(root: Path, places: Sequence[str]) -> str:
    """Return the first place that is there, as a path of the host; "" for none."""
    return next((f"/{place}" for place in places if os.path.lexists(root / place)), "")


def _any(root: Path, pattern: str) -> bool:
    return next(root.glob(pattern), None) is not None
