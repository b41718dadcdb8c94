"""The database is no larger than this interpreter can map."""

from pathlib import Path

import pytest
from geosched.supervisor.config import parsers, settings
from geosched.supervisor.config.sections import DaemonSettings, SettingsError
from geosched.supervisor.startup import storage_probe

GIB = 1024**3


@pytest.mark.parametrize("size", [2 * GIB, 3 * GIB, 4 * GIB - 4096, 4 * GIB, 64 * GIB])
def test_with_four_bytes_a_pointer_two_gibibytes_are_refused(size: int):
    with pytest.raises(ValueError, match="less than 2GiB"):
        parsers.check_map_size(size, pointer_bytes=4)


@pytest.mark.parametrize("size", [1024**2, 64 * 1024**2, 2 * GIB - 4096, 2 * GIB - 1])
def test_with_four_bytes_a_pointer_less_is_taken(size: int):
    parsers.check_map_size(size, pointer_bytes=4)


def test_with_eight_bytes_a_pointer_every_size_of_a_setting_is_taken():
    parsers.check_map_size(64 * GIB, pointer_bytes=8)


def test_the_default_fits_everywhere():
    parsers.check_map_size(DaemonSettings().map_size_bytes, pointer_bytes=4)


def test_a_file_that_asks_for_more_is_refused_by_its_key(monkeypatch: pytest.MonkeyPatch):
    def narrow(size_bytes: int) -> None:
        check(size_bytes, pointer_bytes=4)

    check = parsers.check_map_size
    monkeypatch.setattr(parsers, "check_map_size", narrow)
    content = b'[daemon]\nmap_size = "4GiB"\n[backend]\nkind = "file"\npath = "a"\n'
    with pytest.raises(SettingsError, match=r"cannot use .*: daemon.map_size: expected less than"):
        settings.parse(content, Path("/etc/geosched.toml"))


def test_what_no_process_can_map_is_told():
    assert storage_probe.no_address_space(64 * 1024**2) == ""
    for impossible in (2**62, 2**63 - 1, 2**63, 2**64):
        assert "cannot be mapped" in storage_probe.no_address_space(impossible)
