"""`geosched-ctl diff`: all pages of differences, and its exit codes."""

import json

from geosched.ipc.messages import control, views
from geosched.ipc.messages.control import Answer, Request
from support.ctl import answering, ctl_at


def difference(action_id: str, field: str, there: object, here: object) -> views.DifferenceView:
    return views.DifferenceView(action_id, field, there, here, "backend")


def two_pages(request: Request) -> list[Answer]:
    if isinstance(request, control.Compare):
        return [control.Accepted(9.0), control.Compared(4, 3, 1)]
    assert isinstance(request, control.ListDifferences)
    assert request.number == 4
    if request.cursor == 0:
        return [control.DifferencesAre((difference("a", "appNames", ["x"], []),), 1)]
    last = (difference("b\x1b", "id", "b\x1b", None), difference("c", "id", None, "c"))
    return [control.DifferencesAre(last, 0)]


def test_differences_are_all_pages_of_them_and_exit_1(place, daemon) -> None:
    daemon(two_pages)
    done = ctl_at(place, "-o", "json", "diff")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["setAside"] == 1
    assert document["differences"] == [
        {"id": "a", "field": "appNames", "backend": ["x"], "daemon": [], "owner": "backend"},
        {"id": "b\x1b", "field": "id", "backend": "b\x1b", "daemon": None, "owner": "backend"},
        {"id": "c", "field": "id", "backend": None, "daemon": "c", "owner": "backend"},
    ]
    assert "1 entries of the backend cannot be used" in done.stderr
    lines = ctl_at(place, "-o", "jsonl", "diff").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["a", "b\x1b", "c"]
    table = ctl_at(place, "diff").stdout
    assert "missing" in table
    assert "\x1b" not in table


def test_no_difference_is_exit_0(place, daemon) -> None:
    daemon(answering(control.Accepted(9.0), control.Compared(1, 0, 0)))
    done = ctl_at(place, "-o", "json", "diff")
    assert (done.returncode, json.loads(done.stdout)["differences"]) == (0, [])


def test_a_comparison_that_failed_prints_no_document(place, daemon) -> None:
    failed = control.Compared(1, 0, 0, "cannot pull: unreachable: no")
    daemon(answering(control.Accepted(9.0), failed))
    done = ctl_at(place, "-o", "json", "diff")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "geosched-ctl: cannot pull: unreachable: no\n"
