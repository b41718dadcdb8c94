"""Hosts with a kernel of their own: a clock that is wrong at boot, little memory, and a disk whose
cache forgets."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from support.wait import wait_for

from . import trees
from .commands import need, run
from .host import PLACE, SCRIPT, SETTINGS, action
from .inits import CHECKOUT, INSTALLING
from .machine import AGENT, AGENT_CODE, AGENT_UNIT, UNIT, Machine, machine
from .readme import shell_blocks
from .report import Trial

SUITE, PYTHON = "bookworm", "3.11"
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "python3", "python3-venv", "procps"),
    *("linux-image-cloud-amd64", "initramfs-tools"),
)
DISK_BYTES = 2 * 2**30
SIZES_MB = (256, 192, 128)
CUTS = 5
#: Under software emulation the daemon itself takes tens of seconds to load.
START_SECONDS_MAX = 300
CTL = "geosched-ctl -o json --timeout 60"


def _image(place: Path) -> Path:
    """A disk with a host on it, made once."""
    image = trees.PLACE / "machine.img"
    if not image.exists():
        need("mkfs.ext4")
        tree = trees.tree("machine", SUITE, PACKAGES)
        with trees.copy(tree, "machine") as copied:
            _furnish(copied)
            made = image.with_suffix(".tmp")
            with made.open("wb") as file:
                file.truncate(DISK_BYTES)
            run("mkfs.ext4", "-q", "-d", copied, made, seconds=300)
        made.rename(image)
    tree = trees.PLACE / "tree-machine"
    shutil.copy(next((tree / "boot").glob("vmlinuz-*")), place / "vmlinuz")
    shutil.copy(next((tree / "boot").glob("initrd.img-*")), place / "initrd.img")
    return image


def _furnish(tree: Path) -> None:
    trees.give_checkout(tree)
    trees.give_wheels(tree, PYTHON)
    offline = f"export INIT=systemd PIP_NO_INDEX=1 PIP_FIND_LINKS={trees.WHEELS}"
    for line in shell_blocks(INSTALLING, CHECKOUT)[0]:
        if "geosched-ctl init" not in line:
            trees.chroot(tree, f"{offline}; cd {trees.CHECKOUT} && {line}", seconds=300)
    for path, text, mode in (
        (PLACE / "script", SCRIPT, 0o755),
        (PLACE / "actions.json", "[]", 0o644),
        (Path("/etc/geosched/geosched.toml"), SETTINGS, 0o644),
        (AGENT, AGENT_CODE, 0o755),
        (Path(UNIT), AGENT_UNIT, 0o644),
    ):
        target = tree / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)
    trees.chroot(tree, "systemctl enable geosched trial-agent && systemctl mask systemd-timesyncd")
    shutil.rmtree(tree / "root/wheels")
    shutil.rmtree(tree / "root/geosched")


@contextmanager
def _booted(trial: Trial, memory_mb: int = 512, options: tuple[str, ...] = ()) -> Iterator[Machine]:
    """A machine that is on, with a disk of its own."""
    need("qemu-system-x86_64")
    place = trees.PLACE / "machine"
    place.mkdir(exist_ok=True)
    image = place / "disk.img"
    run("cp", "--sparse=always", _image(place), image, seconds=120)
    with machine(place, str(image), memory_mb, options) as made:
        trial.say(f"booted with {memory_mb} MB in {made.boot():.0f} s")
        if not trial.versions:
            trial.versions += [
                "Debian " + made.run("cat /etc/debian_version").strip(),
                "Linux " + made.run("uname -r").strip(),
                "qemu, software emulation",
            ]
        yield made


def _wait_for_daemon(made: Machine) -> None:
    def answers() -> bool:
        return made.ask(f"{CTL} ping").returncode == 0

    wait_for(answers, seconds=START_SECONDS_MAX, what="a daemon that answers", pause_seconds=1)


def _send(made: Machine, *entries: dict[str, object]) -> None:
    text = json.dumps(list(entries))
    made.run(
        f"cat >{PLACE}/actions.new <<'EOF'\n{text}\nEOF\n"
        f"sync {PLACE}/actions.new && mv {PLACE}/actions.new {PLACE}/actions.json"
    )


def _wait_for_line(made: Machine, line: str, *, seconds: float = 120) -> None:
    def there() -> bool:
        return made.ask(f"grep -qx '{line}' {PLACE}/journal").returncode == 0

    wait_for(there, seconds=seconds, what=line, pause_seconds=0.5)


def clock(trial: Trial) -> None:
    """S19: nothing begins by a clock that reads the past, and all goes on once it is right."""
    options = ("-rtc", "base=2000-01-01T00:00:00")
    with trial.step("the clock reads 2000 at boot"), _booted(trial, options=options) as made:
        trial.notes.append(f"it booted in {made.run('date -u +%Y').strip()}")
        _wait_for_daemon(made)
        _send(made, action("due"))
        status = json.loads(made.run(f"{CTL} status"))
        assert status["clock"]["trusted"] is False, status["clock"]
        time.sleep(10)
        assert made.ask(f"test -e {PLACE}/journal").returncode, "it began by a wrong clock"
        made.run(f"date -s @{int(time.time())}")
        _wait_for_line(made, "begin due 1")
        trial.notes.append("what was due was held until the clock was set, and began then")


def memory(trial: Trial) -> None:
    for size_mb in SIZES_MB:
        with trial.step(f"{size_mb} MB"), _booted(trial, size_mb) as made:
            _wait_for_daemon(made)
            names = [f"run{number}" for number in range(5)]
            _send(made, *(action(name) for name in names))
            for name in names:
                _wait_for_line(made, f"begin {name} 1", seconds=START_SECONDS_MAX)
            text = made.run("cat /proc/meminfo")
            left = int(text.partition("MemAvailable:")[2].split()[0]) // 1000
            killed = made.run("dmesg | grep -c 'Killed process' || true").strip()
            trial.notes.append(f"{size_mb} MB: {left} MB left with 5 runs, {killed} OOM kills")
            assert killed == "0"


def cuts(trial: Trial) -> None:
    """The whole machine, on a disk that loses what was not flushed."""
    need("qemu-system-x86_64")
    place = trees.PLACE / "machine-cuts"
    place.mkdir(exist_ok=True)
    image = place / "disk.img"
    run("cp", "--sparse=always", _image(place), image, seconds=120)
    seen: dict[str, str] = {}
    for cut in range(CUTS + 1):
        name = f"after cut {cut}" if cut else "before the first cut"
        with trial.step(name), _volatile(place, image, cut) as (drive, lost):
            with machine(place, drive) as made:
                trial.say(f"booted in {made.boot():.0f} s")
                _wait_for_daemon(made)
                _compare(made, seen)
                if cut < CUTS:
                    _work(made, cut, seen)
            trial.say(lost())
    trial.notes.append(f"{CUTS} cuts, {len(seen)} statuses seen before one")


@contextmanager
def _volatile(place: Path, image: Path, seed: int) -> Iterator[tuple[str, Callable[[], str]]]:
    path = place / "nbd"
    path.unlink(missing_ok=True)
    server = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("volatile_disk.py"), path, image, str(seed)],
        stdout=subprocess.PIPE,
        text=True,
    )

    def lost() -> str:
        said, _ = server.communicate(timeout=60)
        return said.strip()

    try:
        wait_for(path.exists, what="the server of the disk")
        yield f"nbd:unix:{path}", lost
    finally:
        server.kill()
        server.wait(10)
        if server.stdout is not None:
            server.stdout.close()


def _compare(made: Machine, seen: dict[str, str]) -> None:
    rows = {row["id"]: row for row in json.loads(made.run(f"{CTL} list --limit 10000"))["actions"]}
    now = {id_: rows.get(id_, {}).get("executionStatus") for id_ in seen}
    assert now == seen, f"seen before the cut: {seen}, after it: {now}"
    begun = made.run(f"cat {PLACE}/journal 2>/dev/null | grep ^begin || true").splitlines()
    assert len(begun) == len(set(begun)), f"an attempt began twice: {begun}"


def _work(made: Machine, cut: int, seen: dict[str, str]) -> None:
    """Until a quick action is seen to have ended; a long one runs when the power is cut."""
    _send(made, action(f"quick{cut}"), action(f"long{cut}"))
    _wait_for_line(made, f"begin long{cut} 1")

    def ended() -> bool:
        rows = json.loads(made.run(f"{CTL} list"))["actions"]
        return any(
            row["id"] == f"quick{cut}" and row["executionStatus"] == "FINISHED" for row in rows
        )

    wait_for(ended, seconds=120, what="the end of the quick one", pause_seconds=0.5)
    seen[f"quick{cut}"] = "FINISHED"


MACHINES: dict[str, tuple[str, Callable[[Trial], None]]] = {
    "machine-clock": ("a machine whose clock reads 2000", clock),
    "machine-memory": ("machines of 256, 192 and 128 MB", memory),
    "machine-cuts": ("power cuts of a machine, volatile cache", cuts),
}
