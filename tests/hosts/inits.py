"""A host under each init: installed by the documents' lines, run, broken, rebooted, and cleared."""

import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from support.wait import wait_for

from . import trees
from .commands import need
from .container import container
from .host import MISTAKE, SETTINGS, Host, action
from .readme import shell_blocks
from .report import Trial

README = trees.ROOT / "README.md"
INSTALLING = trees.ROOT / "deploy/README.md"
PACKAGE, BUNDLE, CHECKOUT = "Debian 13 and newer", "Debian 12 and others", "A checkout"
PYTHON = ("python3", "python3-venv", "procps")
#: A lock of the daemon's that somebody else has: each start fails, until it is let go of.
HOLD = """python3 -c '
import fcntl, sys, time
file = open("/var/lib/geosched/lock", "r+")
fcntl.lockf(file, fcntl.LOCK_EX)
time.sleep(float(sys.argv[1]))
' {seconds} >/dev/null 2>&1 &"""
HELD_SECONDS = 40


@dataclass(frozen=True)
class Init:
    """An init and its words. `hang` is what has a daemon that hangs started anew within a minute or
    two, "" where nothing does, and `hang_no_more` what takes that back; `pid_file` may be lost."""

    part: str
    title: str
    suite: str
    python: str
    packages: tuple[str, ...]
    heading: str
    booted: str
    version: str
    start: str
    stop: str
    restart: str
    reload: str
    log: str
    restarts: bool = True
    restart_checks: bool = False
    reload_checks: bool = True
    hang: str = ""
    hang_no_more: str = "true"
    pid_file: str = ""
    own_settings: str = ""
    first: tuple[str, ...] = ()
    power_off: str = "poweroff"


class Way(NamedTuple):
    """How geosched comes onto a host: the heading of its lines, and where they are said."""

    heading: str
    directory: Path


def systemd(part: str, title: str, suite: str, python: str) -> Init:
    drop_in = "/etc/systemd/system/geosched.service.d/own.conf"
    options = "--config /etc/geosched/geosched.toml --log-level debug"
    find = "$(command -v geoschedd)"
    return Init(
        part,
        title,
        suite,
        python,
        (*PYTHON, "systemd", "systemd-sysv", "dbus"),
        heading="systemd",
        booted="systemctl is-system-running | grep -Eq 'running|degraded'",
        version="systemctl --version | head -1 | cut -d' ' -f1,2",
        start="systemctl start geosched",
        stop="systemctl stop geosched",
        restart="systemctl restart geosched",
        reload="systemctl reload geosched",
        log="journalctl -u geosched -o cat --no-pager",
        hang=f"mkdir -p {Path(drop_in).parent} && printf '[Service]\\nWatchdogSec=5\\n' >{drop_in}"
        " && systemctl daemon-reload && systemctl restart geosched",
        own_settings=f"mkdir -p {Path(drop_in).parent} && "
        f"printf '[Service]\\nExecStart=\\nExecStart=%s {options}\\n' \"{find}\" >{drop_in}"
        " && systemctl daemon-reload && systemctl restart geosched",
    )


SYSV = Init(
    "sysvinit",
    "sysvinit",
    "bookworm",
    "3.11",
    (*PYTHON, "sysvinit-core", "initscripts", "sysv-rc"),
    heading="sysvinit",
    booted="! pgrep -x rc && pgrep -x getty",
    version="dpkg-query -W -f '${Package} ${Version}' sysvinit-core",
    start="service geosched start",
    stop="service geosched stop",
    restart="service geosched restart",
    reload="service geosched reload",
    log="cat /var/log/geoschedd.log",
    restarts=False,
    restart_checks=True,
    pid_file="/run/geoschedd.pid",
    own_settings="echo 'OPTIONS=\"--log-level debug\"' >>/etc/default/geosched"
    " && service geosched restart",
)
OPENRC = Init(
    "openrc",
    "OpenRC",
    "bookworm",
    "3.11",
    (*PYTHON, "openrc", "sysvinit-core", "initscripts"),
    heading="OpenRC",
    booted="! pgrep -x openrc && pgrep -x getty",
    version="openrc --version | head -1",
    start="rc-service geosched start",
    stop="rc-service geosched stop",
    restart="rc-service geosched restart",
    reload="rc-service geosched reload",
    log="cat /var/log/geoschedd.log",
    restart_checks=True,
    hang="printf 'healthcheck_delay=15\\nhealthcheck_timer=2\\nretry=TERM/5/KILL/5\\n'"
    " >>/etc/conf.d/geosched && rc-service geosched restart",
    hang_no_more="sed -i '/^healthcheck_/d; /^retry=/d' /etc/conf.d/geosched"
    " && rc-service geosched restart",
    pid_file="/run/geosched.pid",
    own_settings="echo 'geosched_opts=\"--log-level debug\"' >>/etc/conf.d/geosched"
    " && rc-service geosched restart",
)
RUNIT = Init(
    "runit",
    "runit",
    "bookworm",
    "3.11",
    (*PYTHON, "runit", "runit-init", "initscripts"),
    heading="runit",
    booted="pgrep -x runsvdir",
    version="dpkg-query -W -f '${Package} ${Version}' runit",
    start="sv up geosched",
    stop="sv -w 60 stop geosched",
    restart="sv -w 60 restart geosched",
    reload="sv hup geosched",
    log="cat /var/log/geoschedd/current",
    reload_checks=False,
)
S6 = Init(
    "s6",
    "s6 (s6-svscan as process 1)",
    "bookworm",
    "3.11",
    (*PYTHON, "s6"),
    heading="s6",
    booted="pgrep -x s6-svscan",
    version="dpkg-query -W -f '${Package} ${Version}' s6",
    start="s6-svc -u /etc/s6/service/geosched",
    stop="s6-svc -wD -d /etc/s6/service/geosched",
    restart="s6-svc -r /etc/s6/service/geosched",
    reload="s6-svc -h /etc/s6/service/geosched",
    log="cat /var/log/geoschedd/current",
    reload_checks=False,
    first=("/bin/sh", "-c", "mkdir -p /etc/s6/service && exec s6-svscan /etc/s6/service"),
    power_off="s6-svscanctl -t /etc/s6/service",
)
INITS = {
    init.part: init
    for init in (
        systemd("systemd-12", "Debian 12, systemd", "bookworm", "3.11"),
        systemd("systemd-13", "Debian 13, systemd", "trixie", "3.13"),
        *(SYSV, OPENRC, RUNIT, S6),
    )
}


def run(trial: Trial, init: Init) -> None:
    """Raises `UntriedError`."""
    need("systemd-nspawn", "nsenter")
    tree = trees.tree(init.part, init.suite, init.packages)
    with trees.copy(tree, init.part) as place:
        way = _give(place, init)
        before = names(place)
        log = trees.PLACE / f"{init.part}.console"
        with container(place, f"geosched-{init.part}", log, init.first) as box:
            host = Host(box)
            _boot(trial, init, host)
            _install(trial, init, host, way)
            for step in STEPS:
                if step.applies(init):
                    with trial.step(step.name):
                        step.tried(trial, init, host)
            trial.notes += [] if init.hang else ["nothing ends a daemon that hangs"]
            with trial.step("removed, and nothing is left"):
                _remove(init, host, way)
                left = [name for name in names(place) - before if "geosched" in name.lower()]
                assert not left, f"left: {sorted(left)}"


def names(place: Path) -> set[str]:
    return {
        str(path.relative_to(place))
        for path in place.rglob("*")
        if path.parts[len(place.parts)] not in ("root", "proc", "sys", "dev", "tmp")
    }


def _give(place: Path, init: Init) -> Way:
    """Put what is installed into the tree: the package or the bundle where it is for this host and
    was built, else the checkout."""
    dist = trees.ROOT / "dist"
    if init.suite == "trixie" and (packages := sorted(dist.glob("geosched_*_all.deb"))):
        shutil.copy(packages[-1], place / "root")
        # What it needs comes from here, because the host will have no network.
        (place / "etc/apt/apt.conf.d/90trial").write_text('APT::Get::Assume-Yes "true";\n')
        fetch = f"apt-get -q update && apt-get install --download-only /root/{packages[-1].name}"
        trees.chroot(place, fetch, seconds=trees.APT_SECONDS_MAX)
        return Way(PACKAGE, Path("/root"))
    bundles = sorted(dist.glob(f"geosched-*-bundle-{platform.machine()}.tar.gz"))
    if init.part == "systemd-12" and bundles:
        shutil.copy(bundles[-1], place / "root")
        return Way(BUNDLE, Path("/root"))
    trees.give_checkout(place)
    trees.give_wheels(place, init.python)
    return Way(CHECKOUT, trees.CHECKOUT)


def _boot(trial: Trial, init: Init, host: Host) -> None:
    with trial.step("boots"):
        host.box.boot()
        wait_for(lambda: host.box.ask(init.booted).returncode == 0, seconds=60, what="its init")
        release = host.box.run("cat /etc/debian_version").strip()
        python = host.box.run("python3 --version").strip()
        trial.versions += [f"Debian {release}", host.box.run(init.version).strip(), python]


def _install(trial: Trial, init: Init, host: Host, way: Way) -> None:
    with trial.step("installed by the lines of the documents"):
        lines = shell_blocks(INSTALLING, way.heading)[0] + shell_blocks(INSTALLING, init.heading)[0]
        for line in lines:
            trial.say(f"$ {line}")
            if "geosched-ctl init" in line:
                host.configure()
                continue
            offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(trees.WHEELS)}
            host.box.run(f"cd {way.directory} && {line}", seconds=300, env=offline)
        host.wait_for_daemon()
        containment = host.ctl("status")["containment"]
        trial.notes += [f"installed as: {way.heading}", f"containment {containment}"]


def _memory(trial: Trial, _init: Init, host: Host) -> None:
    """With one run: what each process has of its own, and its share of what it has with others."""
    host.begin("memory")
    time.sleep(3)  # until what is made ready ahead is ready
    sizes = "for pid in $(pgrep -f geosched); do grep ^Pss: /proc/$pid/smaps_rollup; done"
    processes = [int(line.split()[1]) for line in host.box.run(sizes).splitlines()]
    assert len(processes) > 3, processes
    disk = host.box.run("du -sck /opt/geosched /var/lib/geosched 2>/dev/null | tail -1").split()[0]
    state = host.box.run("du -sk /var/lib/geosched").split()[0]
    trial.notes += [
        f"{sum(processes) / 1000:.0f} MB in {len(processes)} processes with one run",
        f"{(int(disk) - int(state)) / 1000:.0f} MB below /opt/geosched",
    ]


def _actions(_trial: Trial, _init: Init, host: Host) -> None:
    host.send(action("long"), action("quick"), action("later", begins=3600))
    host.wait_for_line("begin", "long", 1)
    host.wait_for_status("quick", "FINISHED")
    assert host.status_of("later") in ("NULL", "None")


def _reload(_trial: Trial, init: Init, host: Host) -> None:
    pid = host.pid()
    host.configure(SETTINGS.replace('"1s"', '"900ms"'))
    host.box.run(init.reload)
    wait_for(lambda: "Reloaded" in host.box.run(init.log), seconds=20, what="a reload in its log")
    assert host.pid() == pid


def _mistake(trial: Trial, init: Init, host: Host) -> None:
    host.begin("mistake")
    pid = host.pid()
    host.configure(SETTINGS + MISTAKE)
    try:
        reloaded = host.box.ask(init.reload).returncode == 0
        assert reloaded is not init.reload_checks, "whether a reload with a mistake fails"
        assert host.pid() == pid
        restarted = host.box.ask(init.restart, seconds=120)
        if init.restart_checks:
            assert restarted.returncode != 0, "a restart with a mistake fails"
            assert host.pid() == pid, "and changes nothing"
        else:
            time.sleep(15)  # three times as long as until it would be started again
            assert not host.pid()
            ends = host.box.run(init.log).count("deamon: unknown key")
            assert ends <= 4, f"a daemon with a mistake was started again and again: {ends}"
            trial.notes.append("a restart with a mistake leaves nothing running")
    finally:
        host.configure()
    if not init.restart_checks:
        host.box.run(init.start, seconds=120)
        host.wait_for_daemon()
        host.wait_for_line("begin", "mistake", 2)


def _restart(_trial: Trial, init: Init, host: Host) -> None:
    host.begin("restart")
    pid = host.pid()
    host.box.run(init.restart, seconds=120)
    host.wait_for_daemon(other_than=pid)
    host.wait_for_line("end", "restart", 1)
    host.wait_for_line("begin", "restart", 2)


def _kill(trial: Trial, init: Init, host: Host) -> None:
    """S17, and `supervisor-killed` of the crash contract."""
    host.begin("kill")
    pid = host.pid()
    began_monotonic = time.monotonic()
    host.box.run(f"kill -KILL {pid}")
    host.wait_for_line("term", "kill", 1, seconds=3)
    host.wait_for_line("end", "kill", 1, seconds=5)
    if not init.restarts:
        time.sleep(10)
        assert not host.pid(), "nothing starts it again here"
        host.box.run(init.start)
    host.wait_for_daemon(other_than=pid)
    seconds = time.monotonic() - began_monotonic
    host.wait_for_line("begin", "kill", 2)
    if init.restarts:
        trial.notes.append(f"after kill -9 it answers again in {seconds:.1f} s")


def _hang(trial: Trial, init: Init, host: Host) -> None:
    host.box.run(init.hang, seconds=120)
    host.wait_for_daemon()
    host.begin("hang")
    pid = host.pid()
    time.sleep(3)  # past the delay of the first look
    began_monotonic = time.monotonic()
    host.box.run(f"kill -STOP {pid}")
    host.wait_for_daemon(other_than=pid, seconds=180)
    host.wait_for_line("begin", "hang", 2)
    seconds = time.monotonic() - began_monotonic
    trial.notes.append(f"a daemon that hangs is replaced in {seconds:.0f} s")
    host.box.run(init.hang_no_more)


def _held(trial: Trial, init: Init, host: Host) -> None:
    """What keeps it from starting ends after a while, with nobody there."""
    host.box.run(init.stop, seconds=120)
    host.wait_for_no_daemon()
    host.box.run(HOLD.format(seconds=HELD_SECONDS))
    time.sleep(1)
    began_monotonic = time.monotonic()
    host.box.ask(init.start, seconds=120)
    host.wait_for_daemon(seconds=HELD_SECONDS + 30)
    seconds = time.monotonic() - began_monotonic
    assert seconds > HELD_SECONDS - 10, f"it was not held: it answered after {seconds:.0f} s"
    failed = host.box.run(init.log).count("a daemon is running on it")
    assert failed > 4, f"only {failed} starts failed"


def _pid_file(_trial: Trial, init: Init, host: Host) -> None:
    pid = host.pid()
    host.box.run(f"rm {init.pid_file}")
    host.box.run(init.stop, seconds=120)
    host.wait_for_no_daemon()
    assert host.box.ask(f"kill -0 {pid}").returncode, "it still runs"
    host.box.run(init.start)
    host.wait_for_daemon()


def _own_settings(_trial: Trial, init: Init, host: Host) -> None:
    host.box.run(init.own_settings, seconds=120)
    pid = host.wait_for_daemon()
    command = host.box.run(f"tr '\\0' ' ' </proc/{pid}/cmdline")
    assert "--log-level debug" in command, command


def _reboot(trial: Trial, init: Init, host: Host) -> None:
    host.begin("off")
    seconds = host.box.power_off(init.power_off)
    lines = host.journal()
    assert [line.word for line in lines if line.action == "off"] == ["begin", "term", "end"], lines
    assert seconds < 60, f"it took {seconds:.0f} s"
    trial.notes.append(f"off in {seconds:.1f} s with a script that takes 2 s")
    host.add(action("due", begins=25))
    began = host.box.boot()
    host.wait_for_daemon()
    host.wait_for_line("begin", "off", 2)
    host.wait_for_line("begin", "due", 1, seconds=60)
    assert began < 60


def _cut(_trial: Trial, _init: Init, host: Host) -> None:
    host.begin("cut")
    host.box.cut()
    host.box.boot()
    host.wait_for_daemon()
    host.wait_for_line("begin", "cut", 2)


def _remove(init: Init, host: Host, way: Way) -> None:
    lines = shell_blocks(INSTALLING, init.heading)[-1] + shell_blocks(INSTALLING, way.heading)[-1]
    if way.heading == PACKAGE:  # it does all of it, but for the drop-ins, which are the operator's
        host.box.run("rm -rf /etc/systemd/system/geosched.service.d")
        lines = shell_blocks(INSTALLING, way.heading)[-1]
    for line in lines:
        host.box.run(f"cd / && {line}", seconds=120)
    left = host.box.ask("pgrep -a geosched").stdout
    assert not left, f"still running: {left}"
    host.box.power_off(init.power_off)


def _inittab(trial: Trial, init: Init, host: Host) -> None:
    """Where init itself keeps it running, in place of the init script."""
    host.box.run(init.stop, seconds=120)
    host.box.run("update-rc.d -f geosched remove")
    examples = "/opt/geosched/share/geosched/inittab.example /usr/share/geosched/inittab.example"
    host.box.run(f"cat {examples} 2>/dev/null | grep ^gs: >>/etc/inittab && init q")
    pid = host.wait_for_daemon()
    host.begin("inittab")
    began_monotonic = time.monotonic()
    host.box.run(f"kill -KILL {pid}")
    host.wait_for_line("end", "inittab", 1, seconds=5)
    host.wait_for_daemon(other_than=pid)
    seconds = time.monotonic() - began_monotonic
    trial.notes.append(f"by its line in inittab it answers again in {seconds:.1f} s after kill -9")
    host.box.run("sed -i /^gs:/d /etc/inittab && init q")
    host.wait_for_no_daemon()


class Step(NamedTuple):
    """One trial of each host that it applies to."""

    name: str
    tried: Callable[[Trial, Init, Host], None]
    applies: Callable[[Init], bool] = lambda _init: True


STEPS = (
    Step("actions begin and end", _actions),
    Step("memory and disk", _memory),
    Step("reload", _reload),
    Step("a mistake in the configuration", _mistake),
    Step("restart", _restart),
    Step("kill -9 of the daemon", _kill),
    Step("a daemon that hangs", _hang, lambda init: bool(init.hang)),
    Step("starts that fail are tried again for ever", _held, lambda init: init.restarts),
    Step("stopped without its pid file", _pid_file, lambda init: bool(init.pid_file)),
    Step("settings of its own", _own_settings, lambda init: bool(init.own_settings)),
    Step("orderly power-off, and boot", _reboot),
    Step("power cut, and boot", _cut),
    Step("kept running by a line in inittab", _inittab, lambda init: not init.restarts),
)
