"""The sets of releases that `make test-bounds` tries are the ends of what pyproject.toml allows."""

import pytest
from bounds import bounds
from packaging.requirements import Requirement

SETS = sorted(path.stem for path in bounds.HERE.glob("*.txt"))


def test_every_bound_has_two_ends_and_the_lower_one_is_allowed() -> None:
    for asked in bounds.asked():
        assert {each.operator for each in asked.specifier} == {">=", "<"}, asked
        (lower,) = Requirement(bounds.oldest(asked)).specifier
        assert asked.specifier.contains(lower.version)


@pytest.mark.parametrize("releases", SETS)
def test_what_is_tried_between_the_ends_is_allowed(releases: str) -> None:
    allowed = {each.name: each.specifier for each in bounds.asked()}
    for constraint in map(Requirement, bounds.constraints_of(releases)):
        (only,) = constraint.specifier
        assert allowed[constraint.name].contains(only.version), constraint


def test_debian_13_has_all_that_is_asked_for() -> None:
    there = {Requirement(each).name for each in bounds.constraints_of("debian-13")}
    assert there == {each.name for each in bounds.asked()}


def test_what_has_a_bound_is_not_held_at_its_pin() -> None:
    pinned = {each.partition("==")[0] for each in bounds.pins_of_others()}
    assert "pytest" in pinned
    assert pinned.isdisjoint(each.name for each in bounds.asked())


def test_tests_are_counted_by_suite() -> None:
    case = '<testcase classname="tests.{}" name="x">{}</testcase>'
    cases = [
        case.format("unit.store.test_a", ""),
        case.format("integration.store.test_b.C", "<failure/>"),
        case.format("integration.store.test_b", "<error/>"),
        case.format("acceptance.test_c", '<skipped type="pytest.skip"/>'),
    ]
    report = f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>"
    counts = bounds.counts_in(report, bounds.SUITES)
    outcome = bounds.Outcome("3.11.2", "oldest", counts=counts, minutes=4.4)
    *_, row = bounds.table_of([outcome], [*bounds.SUITES]).splitlines()
    assert row.startswith("| 3.11.2 | oldest |")
    assert row.endswith("| 1 | 0, 2 failed | 0, 1 skipped | 4 |")
