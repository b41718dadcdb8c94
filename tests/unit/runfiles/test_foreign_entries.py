"""Links and FIFOs in the place of files through which workers and supervisor meet."""

import os
from pathlib import Path

import pytest
from geosched.ipc.messages.runs import EndCause, RunResult
from geosched.ipc.paths import Runtime
from geosched.workers.host.files import replace_whole
from geosched.workers.runfiles import results
from geosched.workers.runfiles.processes import (
    Kind,
    make_directories,
    read_identities,
    write_identity,
)


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    made = Runtime(tmp_path / "run")
    made.dir.mkdir()
    make_directories(made)
    return made


def put_in_place(path: Path, content: Path) -> list[Path]:
    """Entries that lead to sound content, or that would be waited for."""
    link, fifo = path.with_name("1"), path.with_name("2")
    link.symlink_to(content)
    os.mkfifo(fifo)
    return [link, fifo]


def test_an_identity_behind_a_link_is_nobodys_and_a_fifo_is_not_waited_for(
    runtime: Runtime, tmp_path: Path
):
    write_identity(runtime, Kind.WORKER, "worker-1")
    own = runtime.processes / str(os.getpid())
    assert len(read_identities(runtime)) == 1
    put_in_place(own, own.rename(tmp_path / "elsewhere"))
    assert read_identities(runtime) == []


def test_a_result_behind_a_link_is_dropped_and_a_fifo_is_not_waited_for(
    runtime: Runtime, tmp_path: Path
):
    result = RunResult("1", EndCause.EXITED, 1, exit_code=0)
    results.keep(runtime, result)
    kept = runtime.results / "1"
    assert results.load_all(runtime) == [result]
    put_in_place(kept, kept.rename(tmp_path / "elsewhere"))
    assert results.load_all(runtime) == []
    assert list(runtime.results.iterdir()) == []
    assert (tmp_path / "elsewhere").exists()


def test_a_link_in_the_place_of_half_a_file_is_not_written_through(tmp_path: Path):
    theirs = tmp_path / "theirs"
    theirs.write_text("keep me")
    (tmp_path / "file.tmp").symlink_to(theirs)
    with pytest.raises(OSError, match="symbolic links"):
        replace_whole(tmp_path / "file", b"new", durable=False)
    assert theirs.read_text() == "keep me"
    replace_whole(tmp_path / "file", b"new", durable=False)  # the link is gone
    assert (tmp_path / "file").read_bytes() == b"new"
