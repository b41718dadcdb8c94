"""What a probe saw of a backend, and the dates of certificates, are judged."""

import pytest
from geosched.ipc.instants import SECOND_US, parse_instant
from geosched.ipc.messages.first_run import Dates, Finding, Probed, State
from geosched.ipc.messages.sync import ErrorKind
from geosched.supervisor.startup.first_run import backend_diagnosis
from geosched.supervisor.startup.first_run.backend_diagnosis import Configuration

FINE, WORTH_KNOWING, TO_DO = State.FINE, State.WORTH_KNOWING, State.TO_DO
NOW_US = parse_instant("2026-11-28T00:00:00Z")
DAY_US = 86_400 * SECOND_US
URL = "https://backend.example/api"


def states(findings: list[Finding]) -> list[State]:
    return [found.state for found in findings]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Configuration("/x.toml", False, "cannot read /x.toml: No such file"), [TO_DO]),
        (Configuration("/x.toml", True, "cannot use /x.toml: backend.url: is missing"), [TO_DO]),
        (Configuration("/x.toml", True), [FINE]),
        (Configuration("/x.toml", True, problems=()), [FINE]),
        (Configuration("/x.toml", True, "", ("a", "b"), ("c",)), [TO_DO, TO_DO, WORTH_KNOWING]),
        (Configuration("/x.toml", True, "", (), ("c",)), [WORTH_KNOWING]),
    ],
)
def test_a_configuration_is_judged_as_check_does(
    found: Configuration, expected: list[State]
) -> None:
    assert states([*backend_diagnosis.of_configuration(found)]) == expected


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_each_error_of_a_pull_has_something_to_do(kind: ErrorKind) -> None:
    found = backend_diagnosis.of_backend(URL, Probed(kind, "why"), oauth=False)
    assert found.seen == "why"
    assert found.todo
    assert found.state is (WORTH_KNOWING if kind is ErrorKind.BUSY else TO_DO)


def test_a_refused_token_is_mended_by_another_or_by_a_login() -> None:
    refused = Probed(ErrorKind.UNAUTHORIZED, "answers 401")
    assert "token_file" in backend_diagnosis.of_backend(URL, refused, oauth=False).todo
    assert backend_diagnosis.of_backend(URL, refused, oauth=True).todo == "geosched-ctl login"


def test_entries_that_cannot_be_used_are_worth_knowing() -> None:
    found = backend_diagnosis.of_backend(URL, Probed(actions=3, set_aside=2), oauth=False)
    assert found.state is WORTH_KNOWING
    assert found.seen == f"{URL} answers with 3 actions, and 2 that cannot be used"
    fine = backend_diagnosis.of_backend(URL, Probed(actions=1), oauth=False)
    assert (fine.state, fine.seen) == (FINE, f"{URL} answers with 1 action")
    there = backend_diagnosis.of_backend("/a.json", Probed(actions=3), oauth=False, local=True)
    assert (there.seen, there.means) == ("/a.json has 3 actions", "it can be read")


@pytest.mark.parametrize(
    ("ahead", "expected"), [(None, []), (0.0, [FINE]), (-4.0, [FINE]), (60.0, [TO_DO])]
)
def test_two_clocks_that_differ_move_every_window(
    ahead: float | None, expected: list[State]
) -> None:
    assert states([*backend_diagnosis.of_backend_clock(ahead)]) == expected


@pytest.mark.parametrize(("ahead", "word"), [(3600.0, "late"), (-3600.0, "early")])
def test_a_clock_that_is_behind_begins_late(ahead: float, word: str) -> None:
    (found,) = backend_diagnosis.of_backend_clock(ahead)
    assert f"so much too {word}" in found.means
    assert "3600 s" in found.seen


@pytest.mark.parametrize(
    ("begins_days", "ends_days", "state", "seen"),
    [
        (-100, 200, FINE, "b:443: valid until 2027-06-16"),
        (-364, 1, TO_DO, "b:443: valid until 2026-11-29, 1 days from now"),
        (-364, 13, TO_DO, "b:443: valid until 2026-12-11"),
        (-100, -1, TO_DO, "b:443: not valid since 2026-11-27"),
        (1, 100, TO_DO, "b:443: not valid before 2026-11-29"),
        (-3, 3, FINE, "b:443: valid until 2026-12-01"),
        (-5, 1, TO_DO, "b:443: valid until 2026-11-29"),
    ],
)
def test_a_certificate_is_to_be_renewed_in_time(
    begins_days: float, ends_days: float, state: State, seen: str
) -> None:
    """One that lives for six days is renewed a few days before its end, and not weeks."""
    dates = Dates("b:443", NOW_US + int(begins_days * DAY_US), NOW_US + int(ends_days * DAY_US))
    (found,) = backend_diagnosis.of_certificates("certificate", [dates], NOW_US, "renew it")
    assert found.state is state
    assert found.seen.startswith(seen)
