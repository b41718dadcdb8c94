"""The configuration as `geosched-ctl` reads it: by root, wherever it is told that it lies."""

import os
import threading
from pathlib import Path

import pytest
from geosched.ipc.paths import control_socket, state_dir
from geosched.ipc.regular_files import CONFIGURATION_BYTES_MAX


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    config = tmp_path / "geosched.toml"
    os.mkfifo(config)
    failed: list[OSError] = []

    def read() -> None:
        try:
            control_socket(config)
        except OSError as error:
            failed.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(10)
    assert not reader.is_alive()
    assert "not a regular file" in str(failed[0])


def test_a_fifo_that_was_put_there_after_the_look_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is looked at is what was opened, and no path."""
    config = tmp_path / "geosched.toml"
    config.write_text("")
    regular = config.stat()
    config.unlink()
    os.mkfifo(config)
    monkeypatch.setattr(Path, "stat", lambda _: regular)
    with pytest.raises(OSError, match="not a regular file"):
        control_socket(config)


def test_no_more_is_read_than_a_configuration_may_have(tmp_path: Path) -> None:
    config = tmp_path / "geosched.toml"
    config.write_text("#" * CONFIGURATION_BYTES_MAX)
    assert state_dir(config) == Path("/var/lib/geosched")
    with config.open("ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=f"longer than {CONFIGURATION_BYTES_MAX} bytes"):
        state_dir(config)
