"""Files that are whole or absent, and regular files that others may have put there."""

import errno
import os
import stat
import threading

import pytest
from geosched.workers.host import files
from geosched.workers.host.files import fsync_path, open_regular, replace_whole


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were waited for, in order."""
    found: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: found.append(os.readlink(f"/proc/self/fd/{fd}")))
    return found


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("directory", [False, True])
def test_a_file_and_the_names_in_a_directory_can_be_waited_for(tmp_path, synced, directory):
    path = tmp_path if directory else tmp_path / "file"
    path.touch()
    before = descriptors()
    fsync_path(path)
    assert synced == [str(path)]
    assert descriptors() == before


def test_nothing_is_left_open_when_waiting_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", no_space)
    before = descriptors()
    with pytest.raises(OSError, match="No space left"):
        fsync_path(tmp_path)
    assert descriptors() == before


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_whole_and_private(tmp_path, durable):
    path = tmp_path / "file"
    path.write_text("much longer than the new content")
    path.chmod(0o644)
    replace_whole(path, b"new", durable=durable)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_durable_file_is_on_the_disk_before_its_name_and_then_its_name(tmp_path, synced):
    path = tmp_path / "file"
    replace_whole(path, b"new", durable=True)
    assert synced == [f"{path}{files.TEMPORARY}", str(tmp_path)]


def test_a_file_that_need_not_be_durable_is_not_waited_for(tmp_path, synced):
    replace_whole(tmp_path / "file", b"new", durable=False)
    assert synced == []


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content_whole_and_nothing_beside_it(
    tmp_path, monkeypatch, fails, old
):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    before = list(tmp_path.iterdir())
    if fails == "fsync":
        monkeypatch.setattr(os, "fsync", no_space)
    else:
        monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(OSError, match="No space left"):
        replace_whole(path, b"new", durable=True)
    assert list(tmp_path.iterdir()) == before
    assert old is None or path.read_bytes() == old


def test_a_file_is_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"content"


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    refused: list[BaseException] = []

    def read() -> None:
        try:
            open_regular(tmp_path / "fifo")
        except OSError as error:
            refused.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(5)
    assert [str(error) for error in refused] == ["it is not a regular file"]


@pytest.mark.parametrize("kind", ["directory", "device"])
def test_what_is_no_regular_file_is_refused_and_left_closed(tmp_path, kind):
    before = descriptors()
    with pytest.raises(OSError):
        open_regular(tmp_path if kind == "directory" else "/dev/null")
    assert descriptors() == before
