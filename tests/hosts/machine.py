"""A virtual machine with a kernel, a clock, and a disk of its own, driven over its serial port."""

import base64
import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.wait import wait_for

from .report import CommandError

#: Under software emulation a boot takes a minute or two.
BOOT_SECONDS_MAX = 300
COMMAND_SECONDS_MAX = 120
AGENT = Path("/usr/local/sbin/trial-agent")
UNIT = "/etc/systemd/system/trial-agent.service"
AGENT_UNIT = f"""[Unit]
DefaultDependencies=no
After=systemd-remount-fs.service
[Service]
ExecStart=/usr/bin/python3 {AGENT}
OOMScoreAdjust=-1000
[Install]
WantedBy=sysinit.target
"""
#: Runs the commands that come in at the second serial port, one after another.
AGENT_CODE = """
import base64, json, os, subprocess, tty
port = os.open("/dev/ttyS1", os.O_RDWR | os.O_NOCTTY)
tty.setraw(port)
text = b""
while True:
    text += os.read(port, 65536)
    while b"\\n" in text:
        line, _, text = text.partition(b"\\n")
        if not line:
            continue
        asked = json.loads(base64.b64decode(line))
        done = subprocess.run(["/bin/sh", "-c", asked["command"]], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said = {"number": asked["number"], "code": done.returncode,
                "output": done.stdout.decode(errors="replace")}
        answer = b"\\n" + base64.b64encode(json.dumps(said).encode()) + b"\\n"
        while answer:
            answer = answer[os.write(port, answer):]
"""


class Machine:
    """A machine that is on or off. `drive` is what qemu takes for the file of its disk."""

    def __init__(self, place: Path, drive: str, memory_mb: int, options: tuple[str, ...]) -> None:
        self._place = place
        self._console = place / "console"
        self._port = place / "serial"
        self._drive = drive
        self._memory_mb = memory_mb
        self._options = options
        self._qemu: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._text = b""
        self._number = 0

    def boot(self) -> float:
        """Return the seconds until it answers."""
        began_monotonic = time.monotonic()
        self._port.unlink(missing_ok=True)
        command = (
            *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-nodefaults"),
            *("-m", str(self._memory_mb), "-display", "none"),
            *("-kernel", str(self._place / "vmlinuz"), "-initrd", str(self._place / "initrd.img")),
            *("-append", "root=/dev/vda rw console=ttyS0 panic=5 net.ifnames=0"),
            *("-drive", f"file={self._drive},if=virtio,format=raw,cache=writeback"),
            *("-serial", f"file:{self._console}"),
            *("-serial", f"unix:{self._port},server=on,wait=off", "-device", "virtio-rng-pci"),
            *self._options,
        )
        with (self._place / "qemu").open("ab") as log:
            self._qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log, stdout=log)
        wait_for(self._answers, seconds=BOOT_SECONDS_MAX, what="its agent", pause_seconds=0.5)
        return time.monotonic() - began_monotonic

    def _answers(self) -> bool:
        assert self._qemu is not None
        log = (self._place / "qemu").read_text(errors="replace")
        assert self._qemu.poll() is None, f"it is off: {log[-500:]}"
        if self._socket is None:
            made = socket.socket(socket.AF_UNIX)
            try:
                made.connect(str(self._port))
            except OSError:
                made.close()
                return False
            self._socket = made
        try:
            self.run("true", seconds=5)
        except TimeoutError:
            return False
        return True

    def ask(
        self, command: str, *, seconds: float = COMMAND_SECONDS_MAX
    ) -> "subprocess.CompletedProcess[str]":
        """Run a shell command on it. Raises `TimeoutError`."""
        assert self._socket is not None
        self._number += 1
        asked = json.dumps({"number": self._number, "command": command}).encode()
        self._socket.sendall(b"\n" + base64.b64encode(asked) + b"\n")
        until_monotonic = time.monotonic() + seconds
        while True:
            line, end, rest = self._text.partition(b"\n")
            if not end:
                self._socket.settimeout(max(0.01, until_monotonic - time.monotonic()))
                got = self._socket.recv(65536)
                assert got, "it is off"
                self._text += got
                continue
            self._text = rest
            with contextlib.suppress(ValueError):  # half of an answer from before
                said = json.loads(base64.b64decode(line, validate=True))
                if said["number"] == self._number:
                    return subprocess.CompletedProcess(command, said["code"], said["output"], "")

    def run(self, command: str, *, seconds: float = COMMAND_SECONDS_MAX) -> str:
        done = self.ask(command, seconds=seconds)
        if done.returncode:
            raise CommandError(done)
        return done.stdout

    def power_off(self) -> None:
        assert self._qemu is not None
        self.ask("systemctl poweroff --no-block")
        self._qemu.wait(BOOT_SECONDS_MAX)
        self._off()

    def cut(self) -> None:
        """Cut its power."""
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait(20)
        self._off()

    def _off(self) -> None:
        self._qemu = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._text = b""


@contextmanager
def machine(
    place: Path, drive: str, memory_mb: int = 512, options: tuple[str, ...] = ()
) -> Iterator[Machine]:
    made = Machine(place, drive, memory_mb, options)
    try:
        yield made
    finally:
        made.cut()
