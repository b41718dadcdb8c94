"""Output of a run in its file: what is kept, what is cut, and how it is read meanwhile."""

import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.workers.runfiles.output import CappedFile, Chunk, Output, read_output

MARK = re.compile(rb"\n\[geosched: (\d+) bytes cut\]\n")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.log"


def written(path: Path, parts: list[bytes], bytes_max: int) -> bytes:
    file = CappedFile(path, bytes_max)
    for part in parts:
        file.write(part)
        assert path.stat().st_size <= bytes_max
    file.close()
    return path.read_bytes()


def numbered(count: int) -> bytes:
    """Distinct bytes, so that what is kept can be found in what was written."""
    return b"".join(b"%07d\n" % number for number in range(count // 8))


def read_whole(path: Path, limit: int = 100) -> bytes:
    return b"".join(follow(path, limit))


def follow(path: Path, limit: int) -> Iterator[bytes]:
    offset = 0
    while (chunk := read_output(path, offset, limit)).data:
        offset = chunk.offset + len(chunk.data)
        yield chunk.data


def test_output_within_the_limit_is_kept_to_the_byte(path: Path):
    data = numbered(4096)
    assert written(path, [data], 4096) == data


@pytest.mark.parametrize("bytes_max", [1024, 4096, 5000, 65536])
@pytest.mark.parametrize("total", [1, 2, 5, 100])
@pytest.mark.parametrize("step", [1, 97, 100_000])
def test_beyond_the_limit_head_and_tail_survive_and_the_cut_is_marked(
    path: Path, bytes_max: int, total: int, step: int
):
    data = numbered(bytes_max * total + 8)[: 10_000 if step == 1 else None]
    parts = [data[at : at + step] for at in range(0, len(data), step)]
    kept = written(path, parts, bytes_max)
    if len(data) <= bytes_max:
        assert kept == data
        return
    found = MARK.search(kept)
    assert found
    head, tail = kept[: found.start()], kept[found.end() :]
    assert data.startswith(head)
    assert data.endswith(tail)
    assert len(head) >= bytes_max // 4
    assert len(tail) >= bytes_max // 10
    assert int(found[1]) == len(data) - len(head) - len(tail)


def test_a_limit_that_holds_nothing_is_taken_as_the_smallest(path: Path):
    file = CappedFile(path, 1)
    file.write(b"x" * 5000)
    file.close()
    assert 500 < path.stat().st_size <= 1024


def test_an_earlier_file_of_that_name_is_replaced(path: Path):
    path.write_bytes(b"old" * 1000)
    assert written(path, [b"new"], 1024) == b"new"


def test_reading_in_pieces_gives_the_whole(path: Path):
    kept = written(path, [numbered(100_000)], 4096)
    for limit in (50, 77, 100, 4096, 100_000):
        assert read_whole(path, limit) == kept


def test_fewer_bytes_than_asked_for_means_the_end(path: Path):
    written(path, [numbered(100_000)], 4096)
    offset = 0
    while len((chunk := read_output(path, offset, 50)).data) >= 50:
        offset = chunk.offset + len(chunk.data)
    end = chunk.offset + len(chunk.data)
    assert end == 100_000
    assert read_output(path, end, 50).data == b""


def test_a_negative_offset_counts_from_the_end(path: Path):
    written(path, [b"0123456789"], 4096)
    assert read_output(path, -4, 100) == (6, b"6789")
    assert read_output(path, -400, 100) == (0, b"0123456789")


def test_a_negative_offset_counts_from_the_end_of_what_was_cut(path: Path):
    data = numbered(100_000)
    kept = written(path, [data], 4096)
    assert read_output(path, -16, 100) == (len(data) - 16, data[-16:])
    mark = MARK.search(kept)
    assert mark
    from_the_gap = read_output(path, -50_000, 10_000)
    assert from_the_gap.data == kept[mark.start() :]


def test_an_offset_beyond_the_end_has_nothing(path: Path):
    written(path, [b"abc"], 4096)
    assert read_output(path, 1000, 10) == (1000, b"")


def test_a_missing_file_is_an_error(path: Path):
    with pytest.raises(FileNotFoundError):
        read_output(path, 0, 10)


@pytest.mark.parametrize("seed", range(20))
def test_who_follows_a_growing_log_sees_everything_once_or_a_mark_instead(path: Path, seed: int):
    chance = random.Random(seed)
    data = numbered(60_000)
    file = CappedFile(path, 4096)
    seen, offset, at = b"", 0, 0
    while offset < len(data):
        step = chance.randrange(0, 1500)
        file.write(data[at : at + step])
        at += step
        chunk = read_output(path, offset, chance.randrange(1, 1500))
        offset = chunk.offset + len(chunk.data)
        seen += chunk.data
    file.close()
    # Every piece between marks is a piece of what was written, in order, up to the end.
    place = 0
    for piece in MARK.sub(b"\0", seen).split(b"\0"):
        place = data.index(piece, place) + len(piece)
    assert place == len(data)


def test_a_mark_that_a_script_wrote_itself_is_only_text(path: Path):
    fake = b"x\n[geosched: 12345 bytes cut]\ny\n"
    written(path, [fake], 4096)
    assert read_whole(path) == fake


def test_what_a_failing_directory_costs_is_counted(tmp_path: Path):
    output = Output(tmp_path / "missing" / "run.log", 4096)
    output.put(b"12345")
    output.put(b"678")
    output.close(timeout_seconds=5)
    assert output.lost_bytes == 8


def test_what_a_full_disk_costs_is_counted():
    output = Output(Path("/dev/full"), 4096)
    output.put(b"12345")
    output.close(timeout_seconds=5)
    assert output.lost_bytes == 5


def test_where_no_thread_can_be_had_output_waits_for_one_and_is_counted_at_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        output, lost = Output(path, 4096), Output(path, 4096)
        output.put(b"early ")
        lost.put(b"never")
        lost.close(timeout_seconds=1)
    output.put(b"late")
    output.close(timeout_seconds=10)
    assert (path.read_bytes(), output.lost_bytes, lost.lost_bytes) == (b"early late", 0, 5)


def no_thread(_: threading.Thread) -> None:
    """As CPython says it where the host allows none."""
    raise RuntimeError("can't start new thread")


def test_a_run_without_output_has_an_empty_file(path: Path):
    Output(path, 4096).close(timeout_seconds=5)
    assert path.read_bytes() == b""


def test_what_only_looks_like_a_mark_is_output_as_any(tmp_path: Path):
    """A script can print it, at a place where a head can end, with any number."""
    data = b"a" * 512 + b"\n[geosched: " + b"9" * 20 + b" bytes cut]\nafter\n"
    path = tmp_path / "log"
    path.write_bytes(data)
    assert read_output(path, 0, 10_000) == Chunk(0, data)
    assert read_output(path, 2**63 - 1, 10_000).data == b""
