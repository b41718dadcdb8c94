"""A limit of descriptors is shared so that nothing the daemon admits goes beyond it."""

from pathlib import Path

import pytest
from geosched.supervisor.config.descriptors import (
    BASE,
    CONNECTIONS_MAX,
    HELPERS_KEPT,
    OF_A_CHILD,
    OPEN_FILES_MIN,
    Descriptors,
    shortage,
)
from geosched.supervisor.config.sections import (
    BackendSettings,
    ControlSettings,
    DaemonSettings,
    Settings,
)
from hypothesis import given
from hypothesis import strategies as st


def settings(max_running: int) -> Settings:
    return Settings(
        daemon=DaemonSettings(max_running=max_running),
        backend=BackendSettings(kind="file", path="/actions.json"),
        scripts={},
        control=ControlSettings(),
        source=Path("/geosched.toml"),
    )


@given(st.integers(OPEN_FILES_MIN, 2**63 - 1))
def test_what_is_admitted_fits_into_the_limit(open_files: int):
    shared = Descriptors.within(open_files)
    counted = shared.children - HELPERS_KEPT
    assert BASE + shared.connections + OF_A_CHILD * counted <= open_files
    assert 1 <= shared.runs < shared.children
    assert 2 <= shared.connections_of_user < shared.connections <= CONNECTIONS_MAX


def test_the_least_limit_serves_one_run_and_one_less_is_refused():
    assert Descriptors.within(OPEN_FILES_MIN).runs == 1
    assert shortage(OPEN_FILES_MIN) == ""
    assert f"{OPEN_FILES_MIN - 1} open files are too few" in shortage(OPEN_FILES_MIN - 1)


def test_more_descriptors_are_never_fewer_runs_or_connections():
    before = Descriptors.within(OPEN_FILES_MIN)
    for open_files in range(OPEN_FILES_MIN, 3000):
        shared = Descriptors.within(open_files)
        assert all(new >= old for new, old in zip(shared, before, strict=True))
        before = shared


@pytest.mark.parametrize(("asked", "fits"), [(1, 1), (50, 50), (51, 50), (10_000, 50)])
def test_max_running_is_cut_to_what_fits(asked: int, fits: int):
    shared = Descriptors(256, 50, 25, 60, 50)
    cut = shared.cut(settings(asked))
    assert cut.daemon.max_running == fits
    assert cut.max_running_asked == (asked if asked > fits else None)
