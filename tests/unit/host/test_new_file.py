"""A file that is only to be made new replaces nothing."""

import os
import stat
from pathlib import Path

import pytest
from geosched.workers.host.dirfd import Directory


def test_a_new_file_has_its_content_and_mode(tmp_path: Path) -> None:
    with Directory.open(tmp_path) as directory:
        directory.replace("new", b"content", durable=True, mode=0o640, only_new=True)
    found = (tmp_path / "new").stat()
    assert (tmp_path / "new").read_bytes() == b"content"
    assert (stat.S_IMODE(found.st_mode), found.st_nlink) == (0o640, 1)
    assert os.listdir(tmp_path) == ["new"]


@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_what_is_there_stays(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "there"
    if kind == "file":
        place.write_text("old")
    elif kind == "link":
        place.symlink_to("nowhere")
    else:
        place.mkdir()
    before = place.lstat()
    with Directory.open(tmp_path) as directory, pytest.raises(FileExistsError):
        directory.replace("there", b"new", durable=True, only_new=True)
    assert place.lstat() == before
    assert os.listdir(tmp_path) == ["there"]
