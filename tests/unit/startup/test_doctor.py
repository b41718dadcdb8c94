"""The look at a host goes as far as the host lets it."""

from pathlib import Path

import pytest
from geosched.supervisor.startup.first_run import doctor


def test_without_a_service_of_the_kernel_nothing_else_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.kernel, "why_not", lambda: "cannot use pidfd_open")
    found = [*doctor.findings(tmp_path / "none.toml")]
    assert [(each.name, each.state) for each in found] == [
        ("kernel", "to-do"),
        ("configuration", "to-do"),
    ]
