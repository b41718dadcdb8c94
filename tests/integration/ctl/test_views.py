"""What `geosched-ctl status`, `list` and `show` print of a daemon's answers."""

import json

from geosched.ipc.messages import control, views
from geosched.ipc.messages.control import Answer, Request
from support.ctl import action, answering, ctl_at

STATUS = views.StatusView(
    views.DaemonView(1, "0.1.0", "2026-11-23T08:00:00.000Z", 5.0),
    {"NULL": 1, "STARTED": 0, "WONT_START": 0, "WONT_FINISH": 0, "FINISHED": 0, "FAILED": 0},
    0,
    0,
    None,
    views.BackendView("file"),
    views.OutboxView(0),
    views.ClockView(True),
    "tree",
    views.StoreView("ok", 2**20, 2**26, "ext4", True),
)


def test_status_is_the_view_with_a_schema_version(place, daemon) -> None:
    daemon(answering(control.StatusIs(STATUS)))
    document = json.loads(ctl_at(place, "-o", "json", "status").stdout)
    assert document["schemaVersion"] == 1
    assert document["daemon"]["uptimeSeconds"] == 5.0
    assert document["counts"]["NULL"] == 1
    assert document["nextEdge"] is None
    assert document["backend"]["lastPullOk"] is None
    assert document["containment"] == "tree"
    assert "geoschedd" in ctl_at(place, "status").stdout


def test_jsonl_is_one_line_for_one_document(place, daemon) -> None:
    daemon(answering(control.StatusIs(STATUS)))
    assert ctl_at(place, "-o", "jsonl", "status").stdout.count("\n") == 1


def pages(request: Request) -> list[Answer]:
    assert isinstance(request, control.ListActions)
    match request.cursor:
        case "":
            late, moved = action("z", "2026-11-25T08:00:00.000Z"), action("moved")
            return [control.ActionsAre((late, moved), "1")]
        case "1":
            return [control.ActionsAre((action("b"), action("a"), action("moved")), "2")]
        case _:
            return [control.ActionsAre((action("c", "2026-11-22T08:00:00.000Z"),), "")]


def test_a_list_gathers_all_pages_then_sorts_then_limits(place, daemon) -> None:
    daemon(pages)

    def listed(*arguments: str) -> list[str]:
        document = json.loads(ctl_at(place, "-o", "json", "list", *arguments).stdout)
        assert document["schemaVersion"] == 1
        return [found["id"] for found in document["actions"]]

    assert listed() == ["c", "a", "b", "moved", "z"]
    assert listed("--limit", "2") == ["c", "a"]
    assert listed("--limit", "0") == []


def test_a_list_as_jsonl_is_one_action_a_line(place, daemon) -> None:
    daemon(pages)
    lines = ctl_at(place, "-o", "jsonl", "list").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["c", "a", "b", "moved", "z"]
    assert json.loads(lines[0])["executionStatus"] is None


def test_a_list_asks_for_statuses_in_any_case(place, daemon) -> None:
    asked = daemon(answering(control.ActionsAre((), "")))
    assert ctl_at(place, "list", "--status", "null", "--status", "Failed").returncode == 0
    assert asked.seen == [control.ListActions(("NULL", "FAILED"), "")]


def test_a_daemon_that_repeats_a_page_does_not_keep_the_list_for_ever(place, daemon) -> None:
    daemon(answering(control.ActionsAre((action("a"),), "1")))
    assert ctl_at(place, "list").returncode == 1


def test_show_has_the_action_and_its_runs(place, daemon) -> None:
    run = views.RunView("r1", 1, 10, 11, "2026-11-23T08:00:00.000Z")
    asked = daemon(answering(control.ActionIs(action("a"), (run,))))
    document = json.loads(ctl_at(place, "-o", "json", "show", "a").stdout)
    assert document["action"]["id"] == "a"
    assert document["runs"][0]["runId"] == "r1"
    assert ctl_at(place, "show", "a").stdout.startswith("id ")
    assert asked.seen[0] == control.ShowAction("a")
