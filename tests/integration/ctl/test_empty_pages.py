"""`geosched-ctl list` where a page holds nothing: the daemon reads so many rows for each."""

import json

from geosched.ipc.messages.control import ActionsAre, Answer, ListActions, Request
from support.ctl import action, ctl_at


def two_empty_pages(request: Request) -> list[Answer]:
    assert isinstance(request, ListActions)
    following = {"": "1", "1": "2", "2": "3", "3": ""}[request.cursor]
    found = (action("a"),) if request.cursor == "2" else ()
    return [ActionsAre(found, following)]


def test_a_list_goes_on_over_empty_pages(place, daemon) -> None:
    asked = daemon(two_empty_pages)
    listed = json.loads(ctl_at(place, "-o", "json", "list", "--status", "FAILED").stdout)
    assert [found["id"] for found in listed["actions"]] == ["a"]
    assert len(asked.seen) == 4
