"""Output of a run whose writer is killed in a cut, or whose file others truncate or take away."""

import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from geosched.workers.runfiles import output as module
from geosched.workers.runfiles.output import CappedFile, Output, read_output

MARK = re.compile(rb"\n\[geosched: (\d+) bytes cut\]\n")
#: More than the steps of any cut here.
STEPS_MAX = 12


class Killed(BaseException):
    """The writer gets no further."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.log"


def numbered(count: int) -> bytes:
    return b"".join(b"%07d\n" % number for number in range(count // 8))


def whole(path: Path, limit: int = 100) -> bytes:
    seen, offset = b"", 0
    while (chunk := read_output(path, offset, limit)).data:
        seen, offset = seen + chunk.data, chunk.offset + len(chunk.data)
    return seen


def dies_at(
    call: Callable[..., Any], steps: "itertools.count[int]", last: int
) -> Callable[..., Any]:
    def counted(*arguments: Any) -> Any:
        if next(steps) == last:
            raise Killed
        return call(*arguments)

    return counted


def killed_at(step: int, path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Write, and be killed before the `step`-th change of what is in the file already. False
    where there are not so many."""
    steps = itertools.count()
    with monkeypatch.context() as patched:
        for name in ("pwrite", "ftruncate"):
            patched.setattr(module.os, name, dies_at(getattr(os, name), steps, step))
        try:
            file = CappedFile(path, 4096)
            file.write(data)
        except Killed:
            return True
    file.close()
    return False


@pytest.mark.parametrize("limit", [50, 333, 100_000])
@pytest.mark.parametrize("total", [4200, 5800, 60_000])
def test_what_is_on_the_disk_is_read_wherever_in_a_cut_the_writer_was_killed(
    path: Path, limit: int, total: int, monkeypatch: pytest.MonkeyPatch
):
    data = numbered(total)
    step = 0
    while killed_at(step, path, data, monkeypatch):
        seen = whole(path, limit)
        if found := MARK.search(seen):
            head, tail = seen[: found.start()], seen[found.end() :]
            assert data.startswith(head)
            assert tail
            assert data[len(head) + int(found[1]) :].startswith(tail)
        else:
            assert data.startswith(seen)
        assert len(seen) > 2048 or step == 0  # the very first step empties the file
        step += 1
    assert step > 3


def test_while_a_file_is_being_cut_a_reader_gets_what_it_would_get_afterwards(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    data = numbered(4200)
    assert killed_at(2, path, data, monkeypatch)  # its mark says that it is being cut
    between = whole(path)
    assert b"bytes cut" not in path.read_bytes()
    monkeypatch.undo()
    file = CappedFile(path, 4096)
    file.write(data[:4096])
    file.write(b"-")
    file.close()
    assert whole(path) == between + b"-"


def test_what_only_looks_like_a_cut_under_way_is_output_as_any(path: Path):
    for number in (b"1/ffffffffff", b"1/", b"9" * 20 + b"/400", b"5/400"):
        data = b"a" * 512 + b"\n[geosched " + number + b"]\nafter\n"
        path.write_bytes(data)
        assert whole(path).endswith(b"after\n")
        assert read_output(path, 2**63 - 1, 100).data == b""


# --- truncated --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 100, 600, 2048, 3000])
@pytest.mark.parametrize("before", [3500, 9000])
def test_a_file_that_somebody_truncates_has_no_hole_and_goes_on_at_its_offset(
    path: Path, before: int, size: int
):
    data = numbered(before)
    file = CappedFile(path, 4096)
    file.write(data)
    os.truncate(path, size)
    file.write(b"and on\n")
    seen = whole(path)
    assert b"\0" not in seen
    assert read_output(path, len(data), 100) == (len(data), b"and on\n")
    found = MARK.search(seen)
    assert found
    assert int(found[1]) + found.start() + len(b"and on\n") == len(data) + 7
    assert data.startswith(seen[: found.start()])
    more = numbered(20_000)
    file.write(more)
    file.close()
    seen = whole(path)
    assert path.stat().st_size <= 4096
    assert seen.endswith(more[-800:])
    end = len(data) + 7 + len(more)
    assert read_output(path, end - 8, 100) == (end - 8, more[-8:])


def test_a_file_truncated_between_a_look_and_a_write_has_no_hole(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = CappedFile(path, 4096)
    file.write(b"x" * 1000)
    write = os.write

    def truncated_first(descriptor: int, data: bytes) -> int:
        os.truncate(path, 0)
        return write(descriptor, data)

    with monkeypatch.context() as patched:
        patched.setattr(module.os, "write", truncated_first)
        file.write(b"in between")
    assert path.read_bytes() == b"in between"
    file.write(b"later")
    file.close()
    assert read_output(path, 1010, 100) == (1010, b"later")
    assert b"\0" not in path.read_bytes()


def test_what_somebody_appends_stays(path: Path):
    file = CappedFile(path, 4096)
    file.write(b"one\n")
    with path.open("ab") as other:
        other.write(b"a note\n")
    file.write(b"two\n")
    file.close()
    assert path.read_bytes() == b"one\na note\ntwo\n"


# --- removed, moved ---------------------------------------------------------------------


def written_and_waited_for(output: Output, data: bytes, until: Callable[[], bool]) -> None:
    from tests.support.wait import wait_for

    output.put(data)
    wait_for(until)


def test_output_in_a_file_that_somebody_removes_is_lost_and_the_rest_goes_into_another(path: Path):
    output = Output(path, 4096)
    written_and_waited_for(output, b"12345", lambda: path.exists() and path.stat().st_size == 5)
    path.unlink()
    output.put(b"678")
    output.close(timeout_seconds=5)
    assert output.lost_bytes == 5
    assert read_output(path, 5, 100) == (5, b"678")
    assert whole(path) == b"\n[geosched: 5 bytes cut]\n678"


def test_output_without_a_directory_is_lost_until_there_is_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "OPEN_AGAIN_SECONDS", 0.0)
    path = tmp_path / "log" / "run.log"
    path.parent.mkdir()
    output = Output(path, 4096)
    written_and_waited_for(output, b"12345", lambda: path.exists() and path.stat().st_size == 5)
    path.unlink()
    path.parent.rmdir()
    written_and_waited_for(output, b"678", lambda: output.lost_bytes == 8)
    path.parent.mkdir()
    output.put(b"9")
    output.close(timeout_seconds=5)
    assert output.lost_bytes == 8
    assert whole(path).endswith(b"cut]\n9")


def test_a_removal_after_the_last_output_is_counted_too(path: Path):
    output = Output(path, 4096)
    written_and_waited_for(output, b"12345", lambda: path.exists() and path.stat().st_size == 5)
    path.unlink()
    output.close(timeout_seconds=5)
    assert output.lost_bytes == 5


def test_output_in_a_file_that_somebody_moves_is_theirs_and_not_lost(path: Path):
    output = Output(path, 4096)
    written_and_waited_for(output, b"12345", lambda: path.exists() and path.stat().st_size == 5)
    moved = path.rename(path.with_suffix(".1"))
    path.touch(0o640)  # as logrotate's `create` does
    output.put(b"678")
    output.close(timeout_seconds=5)
    assert (moved.read_bytes(), output.lost_bytes) == (b"12345", 0)
    assert read_output(path, 5, 100) == (5, b"678")


def test_what_others_have_put_in_place_of_the_file_is_not_written_to(tmp_path: Path):
    theirs = tmp_path / "theirs"
    theirs.write_bytes(b"keep me")
    for name, place in {"link": os.symlink, "other name": os.link}.items():
        place(theirs, tmp_path / name)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    for name in ("link", "other name", "fifo", "directory"):
        output = Output(tmp_path / name, 4096)
        output.put(b"12345")
        output.close(timeout_seconds=5)
        assert output.lost_bytes == 5, name
    assert theirs.read_bytes() == b"keep me"
