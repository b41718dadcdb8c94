"""Who can change what a path leads to: every directory and link on the way counts."""

import os
from pathlib import Path

import pytest
from geosched.workers.host import trust
from geosched.workers.host.trust import groups_of_logs, why_not

NOBODY = 65534


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a program, which nobody else can write."""
    (tmp_path / "bin").mkdir(mode=0o755)
    program = tmp_path / "bin" / "program"
    program.touch(mode=0o755)
    return tmp_path


def asked(path: Path) -> str:
    """As a daemon of this very user asks, for whom its own files are fine."""
    return why_not(path, {0, os.geteuid()})


def test_what_only_its_user_can_write_is_trusted(place: Path):
    assert asked(place / "bin/program") == ""


@pytest.mark.parametrize("at", ["bin/program", "bin", "."])
def test_what_everybody_can_write_is_not(place: Path, at: str):
    (place / at).chmod(0o777)
    reason = asked(place / "bin/program")
    assert reason == f"{(place / at).resolve()} is writable by everybody (mode 0777)"


def test_an_entry_of_ones_own_in_a_sticky_directory_is_trusted(place: Path):
    (place / "bin").chmod(0o1777)
    assert asked(place / "bin/program") == ""


def test_a_name_that_is_free_in_a_sticky_directory_is_not_trusted(place: Path):
    (place / "bin").chmod(0o1777)
    assert "is writable by everybody" in asked(place / "bin/missing")


def test_what_does_not_exist_where_nobody_else_can_make_it_is_no_concern(place: Path):
    assert asked(place / "bin/missing/program") == ""


def test_a_link_is_followed_to_a_place_that_others_can_write(place: Path):
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    (place / "open/program").touch(mode=0o755)
    (place / "link").symlink_to("open/../open/program")
    assert f"{place}/open is writable by everybody" in asked(place / "link")


def test_up_from_behind_a_link_is_where_the_link_leads(place: Path):
    (place / "open/sub").mkdir(parents=True)
    (place / "open").chmod(0o777)
    (place / "open/program").touch(mode=0o755)
    (place / "link").symlink_to("open/sub")
    assert f"{place}/open is writable by everybody" in asked(place / "link/../program")


def test_what_cannot_be_looked_at_is_not_trusted(place: Path):
    assert "cannot be looked at: File name too long" in asked(place / ("x" * 300))


def test_links_without_end_are_not_followed_for_ever(place: Path):
    (place / "loop").symlink_to("loop")
    assert "too many links" in asked(place / "loop")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("at", ["bin/program", "bin"])
def test_what_belongs_to_or_is_writable_for_others_is_not_trusted(place: Path, at: str):
    os.chown(place / at, NOBODY, 0)
    assert f"belongs to user {NOBODY}" in asked(place / "bin/program")
    os.chown(place / at, 0, NOBODY)
    (place / at).chmod(0o775)
    assert f"is writable by group {NOBODY} (mode 0775)" in asked(place / "bin/program")
    os.chown(place / at, 0, 0)
    assert asked(place / "bin/program") == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(("owner", "reason"), [(0, ""), (NOBODY, f"link belongs to user {NOBODY}")])
def test_a_link_in_a_directory_of_a_trusted_group_is_trusted_where_root_owns_it(
    place: Path, owner: int, reason: str
):
    """As in Ubuntu's /var/log, which the group syslog may write."""
    (place / "roots").mkdir()
    (place / "logs").mkdir()
    os.chown(place / "logs", 0, NOBODY)
    (place / "logs").chmod(0o775)
    (place / "logs/link").symlink_to(place / "roots")
    os.chown(place / "logs/link", owner, NOBODY, follow_symlinks=False)
    found = why_not(place / "logs/link", groups=(0, NOBODY))
    assert found == (f"{place / 'logs'}/{reason}" if reason else "")
    walked = trust.walk(place / "logs/link", trust.Trusted(groups=(0, NOBODY)), follow=(0,))
    assert (walked.descriptor >= 0) == (owner == 0)
    if walked.descriptor >= 0:
        os.close(walked.descriptor)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(("mode", "groups"), [(0o775, (0, NOBODY)), (0o755, (0,))])
def test_the_group_of_the_host_s_logs_counts_where_it_may_write_them(
    place: Path, monkeypatch: pytest.MonkeyPatch, mode: int, groups: tuple[int, ...]
):
    os.chown(place / "bin", 0, NOBODY)
    (place / "bin").chmod(mode)
    monkeypatch.setattr(trust, "LOGS", place / "bin")
    assert groups_of_logs() == groups
