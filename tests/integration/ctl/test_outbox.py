"""`geosched-ctl outbox`: reports listed, sent now, and dropped."""

import json

import pytest
from geosched.ipc.messages import control, views
from geosched.ipc.messages.control import Answer, Request
from support.ctl import answering, ctl_at


def report_view(number: int, *, set_aside: bool) -> views.ReportView:
    return views.ReportView(
        f"gen-{number}", f"a\x1b{number}", "STARTED", "2026-11-23T08:00:00.000Z", 1, "run-1",
        None, None, "due", 10 if set_aside else 0, set_aside,
    )  # fmt: skip


def in_pages(request: Request) -> list[Answer]:
    """Three reports pending, in two pages; one set aside."""
    assert isinstance(request, control.ListReports)
    numbers, cursor = {0: ([1, 2], 2), 2: ([3], 0)}[request.cursor]
    if request.set_aside:
        numbers, cursor = [9], 0
    views = tuple(report_view(n, set_aside=request.set_aside) for n in numbers)
    return [control.ReportsAre(views, cursor)]


def test_the_outbox_is_all_pages_of_both_kinds(place, daemon) -> None:
    daemon(in_pages)
    shown = json.loads(ctl_at(place, "-o", "json", "outbox", "list").stdout)
    assert [report["key"] for report in shown["pending"]] == ["gen-1", "gen-2", "gen-3"]
    assert [report["key"] for report in shown["refused"]] == ["gen-9"]
    assert set(shown["refused"][0]) == {
        "key", "id", "executionStatus", "at", "attempt", "runId", "exitCode", "signal", "reason",
        "refusals", "setAside",
    }  # fmt: skip
    lines = ctl_at(place, "-o", "jsonl", "outbox", "list").stdout.splitlines()
    assert [json.loads(line)["setAside"] for line in lines] == [False, False, False, True]
    table = ctl_at(place, "outbox", "list").stdout
    assert "10 times, set aside" in table
    assert "\x1b" not in table


def test_a_daemon_that_repeats_a_page_of_reports_does_not_keep_the_list_for_ever(
    place, daemon
) -> None:
    daemon(answering(control.ReportsAre((), 7)))
    done = ctl_at(place, "outbox", "list")
    assert (done.returncode, "repeats a page" in done.stderr) == (1, True)


def test_a_flush_prints_what_became_of_it_and_fails_where_reporting_does(place, daemon) -> None:
    daemon(answering(control.Accepted(9.0), control.Flushed(3, 1, "cannot report: refused: no")))
    done = ctl_at(place, "-o", "json", "outbox", "flush")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"schemaVersion": 1, "flushed": 3, "reported": 1}
    assert done.stderr == "geosched-ctl: cannot report: refused: no\n"


@pytest.mark.parametrize(
    ("arguments", "request_"),
    [
        (["gen-1", "gen-2"], control.DropReports(("gen-1", "gen-2"))),
        (["--refused"], control.DropReports()),
    ],
)
def test_drop_names_keys_or_says_all(place, daemon, arguments, request_) -> None:
    running = daemon(answering(control.Dropped(2)))
    done = ctl_at(place, "-o", "json", "outbox", "drop", *arguments)
    assert json.loads(done.stdout)["dropped"] == 2
    assert running.seen == [request_]
