"""A program that the kernel will not execute is known before, with the reason."""

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.workers.host import programs
from geosched.workers.host.execution import Credentials
from geosched.workers.host.programs import Surroundings, why_not

SOMEBODY = Credentials(4711, 4711, (4712,), {"USER": "somebody"})
INTERPRETER = "the interpreter in its first line"
SCRIPTS = {
    b"#!/bin/sh\nexit 0\n": "",
    b"#! /bin/sh\nexit 0\n": "",
    b"#!/bin/sh": "",
    b"#!/bin/sh -e\n": "",
    b"#!/usr/bin/env sh\n": "",
    b"#!/usr/bin/env -S sh -e\n": "",
    b"#!/usr/bin/env -i sh\n": "",
    b"#!/bin/sh\r\nexit 0\r\n": "its first line ends with CR LF: #!/bin/sh\\r",
    b"#!/bin/sh -e\r\nexit 0\r\n": "its first line ends with CR LF: #!/bin/sh -e\\r",
    b"#!/usr/bin/env sh\r\n": "its first line ends with CR LF: #!/usr/bin/env sh\\r",
    b"#!/no/such\n": f"{INTERPRETER}, /no/such: no such file",
    b"#!no-such\n": f"{INTERPRETER}, no-such: no such file",
    b"#!/usr\n": f"{INTERPRETER}, /usr: it is a directory",
    b"#!/etc/passwd\n": f"{INTERPRETER}, /etc/passwd: it is not executable",
    b"#!/usr/bin/env no-such\n": f"{INTERPRETER}, no-such, is not in its PATH",
    b"#!/usr/bin/env sh -e\n": f"{INTERPRETER}, sh -e, is not in its PATH",
    b"#!/usr/bin/env -S no-such -e\n": f"{INTERPRETER}, no-such, is not in its PATH",
    b"#!/bin/\xe2\x80\xaesh\n": f"{INTERPRETER}, /bin/\\u202esh: no such file",
    b"#!\nexit 0\n": "its #! line names no interpreter",
    b"#!" + b"/x" * 200 + b"\n": "its #! line is longer than the 255 bytes that the kernel reads",
    b"": "it is empty",
    b"echo hello\n": "it is no executable and has no #! line",
    b"\xef\xbb\xbf#!/bin/sh\n": "a byte order mark stands before its #!",
    b"\x7fELF": "it is an executable that is cut off",
}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may enter."""
    directory = Path("/tmp") / f"gs-programs-{os.getpid()}"
    directory.mkdir(mode=0o755)
    yield directory
    shutil.rmtree(directory)


def made(directory: Path, content: bytes, mode: int = 0o755) -> str:
    program = directory / "program"
    program.write_bytes(content)
    program.chmod(mode)
    return str(program)


def within(who: Credentials | None = None, cwd: str = "/") -> Surroundings:
    return Surroundings(cwd, {"PATH": "/usr/bin:/bin"}, who)


def executes(program: str) -> bool:
    try:
        subprocess.run([program], cwd="/", capture_output=True, timeout=10, check=False)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("content", SCRIPTS)
def test_a_script_is_judged_by_its_first_line(tmp_path: Path, content: bytes) -> None:
    program = made(tmp_path, content)
    assert why_not(program, within()) == SCRIPTS[content]
    by_env_or_shell = SCRIPTS[content].endswith(("in its PATH", "env sh\\r", "-e\\r"))
    assert executes(program) is (not SCRIPTS[content] or by_env_or_shell)


def test_a_relative_interpreter_is_one_of_the_directory_of_the_script(tmp_path: Path) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    program = made(tmp_path, b"#!sh\n")
    assert why_not(program, within(cwd=str(tmp_path))) == ""
    assert why_not(program, within()) == f"{INTERPRETER}, sh: no such file"


def test_interpreters_that_need_interpreters_are_followed_as_far_as_the_kernel_does(
    tmp_path: Path,
) -> None:
    program = tmp_path / "program"
    made(tmp_path, f"#!{program}\n".encode())
    assert "one of too many" in why_not(str(program), within())
    other = tmp_path / "other"
    other.write_text("#!/no/such\n")
    other.chmod(0o755)
    made(tmp_path, f"#!{other}\n".encode())
    assert why_not(str(program), within()) == (
        f"{INTERPRETER}, {other}: {INTERPRETER}, /no/such: no such file"
    )


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo, 0o755)
    link.symlink_to(tmp_path / "nothing")
    assert why_not(str(fifo), within()) == "it is not a regular file"
    assert why_not(str(link), within()) == "it is a link to nothing"
    assert why_not("/etc/passwd/x", within()) == "not a directory"
    assert why_not(str(tmp_path), within()) == "it is a directory"


@pytest.mark.parametrize(
    ("mode", "owner", "reason"),
    [
        (0o755, (0, 0), ""),
        (0o744, (0, 0), "it is not executable for user somebody"),
        (0o754, (0, 4712), ""),
        (0o745, (0, 4712), "it is not executable for user somebody"),
        (0o655, (4711, 0), "it is not executable for user somebody"),
        (0o700, (4711, 0), ""),
    ],
)
def test_the_user_of_the_script_has_to_be_able_to_execute_it(
    place: Path, mode: int, owner: tuple[int, int], reason: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    program = made(place, b"#!/bin/sh\n", mode)
    os.chown(program, *owner)
    assert why_not(program, within(SOMEBODY)) == reason
    assert why_not(program, within()) == ""


def test_the_user_of_the_script_has_to_be_able_to_come_there(place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can look at it then")
    program = made(place, b"#!/bin/sh\n")
    assert programs.may_search(str(place), SOMEBODY)
    place.chmod(0o750)
    assert why_not(program, within(SOMEBODY)) == f"{place} cannot be entered by user somebody"
    assert not programs.may_search(str(place), SOMEBODY)
    assert programs.may_search(str(place), None)


def test_a_binary_of_another_machine_or_without_its_loader_is_told(tmp_path: Path) -> None:
    native = Path(os.path.realpath("/bin/sh")).read_bytes()
    assert why_not(made(tmp_path, native), within()) == ""
    foreign = bytearray(native)
    struct.pack_into("<H", foreign, 18, 2)  # SPARC
    assert "for another machine" in why_not(made(tmp_path, bytes(foreign)), within())
    loader = next(part for part in native.split(b"\0") if part.startswith(b"/lib"))
    lost = native.replace(loader, b"/" + b"x" * (len(loader) - 1), 1)
    program = made(tmp_path, lost)
    assert why_not(program, within()) == f"its loader, /{'x' * (len(loader) - 1)}: no such file"
    assert not executes(program)
    object_file = bytearray(native)
    struct.pack_into("<H", object_file, 16, 1)
    assert "an object file" in why_not(made(tmp_path, bytes(object_file)), within())
