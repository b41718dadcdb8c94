"""The mark of an instance, and the key in it."""

import os
from pathlib import Path

import pytest
from geosched.supervisor.startup.mark import KEY_FILE, instance_of, mark_of


def test_the_mark_is_kept_and_nobody_else_can_compute_it(tmp_path: Path) -> None:
    first, second = mark_of(tmp_path), mark_of(tmp_path)
    assert first.text == second.text
    assert first.instance == instance_of(tmp_path)
    assert first.text.startswith(f"{first.instance}-")
    key = (tmp_path / KEY_FILE).read_text()
    assert key not in first.text
    (tmp_path / KEY_FILE).unlink()
    assert mark_of(tmp_path).text != first.text


def test_another_state_directory_has_another_mark(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    assert mark_of(one).text != mark_of(two).text
    (two / KEY_FILE).write_bytes((one / KEY_FILE).read_bytes())
    (two / KEY_FILE).chmod(0o600)
    assert mark_of(one).text.rpartition("-")[2] != mark_of(two).text.rpartition("-")[2]


def test_where_the_key_is_new_the_mark_of_an_earlier_build_counts_once(tmp_path: Path) -> None:
    assert mark_of(tmp_path).earlier == (instance_of(tmp_path),)
    assert mark_of(tmp_path).earlier == ()


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_only_its_user_can_read_the_key(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        mark_of(tmp_path)
    finally:
        os.umask(before)
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o077 == 0
    assert mark_of(tmp_path).earlier == () or os.geteuid() != 0


@pytest.mark.parametrize("spoilt", [b"", b"x" * 64, b"0" * 63, b"0" * 65, b"0" * 64 + b"\n"])
def test_a_key_that_is_none_is_made_anew(tmp_path: Path, spoilt: bytes) -> None:
    mark_of(tmp_path)
    (tmp_path / KEY_FILE).write_bytes(spoilt)
    assert mark_of(tmp_path).earlier
    assert mark_of(tmp_path).earlier == ()


def test_a_key_that_others_have_read_or_linked_is_made_anew(tmp_path: Path) -> None:
    first = mark_of(tmp_path)
    key = tmp_path / KEY_FILE
    key.chmod(0o644)
    second = mark_of(tmp_path)
    assert second.text != first.text
    elsewhere = tmp_path / "elsewhere"
    key.rename(elsewhere)
    key.symlink_to(elsewhere)
    assert mark_of(tmp_path).text != second.text
    assert not key.is_symlink()


def test_without_room_for_a_key_the_mark_is_of_this_start_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = tmp_path / "missing"
    assert mark_of(missing).text != mark_of(missing).text
    assert "Cannot keep" in caplog.text
