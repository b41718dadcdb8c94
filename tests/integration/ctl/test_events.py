"""`geosched-ctl events`: those that are kept, and those that come."""

import json
import signal
import time

from geosched.ipc.messages import control, views
from geosched.ipc.messages.control import Answer, Request
from support.ctl import CannedDaemon, answering, ctl_at, read_line, started
from support.wait import wait_for

EVENT_KEYS = ["seq", "at", "id", "from", "to", "reason", "runId"]
EMPTY = control.EventsAre(())


def event(seq: int) -> views.EventView:
    return views.EventView(seq, "2026-11-23T08:00:00.000Z", f"a{seq}", None, "STARTED", "due", "r1")


def test_events_are_a_document_or_lines_of_exactly_their_fields(place, daemon) -> None:
    asked = daemon(answering(control.EventsAre((event(7), event(8)))))
    document = json.loads(ctl_at(place, "-o", "json", "events").stdout)
    assert [found["seq"] for found in document["events"]] == [7, 8]
    lines = ctl_at(place, "-o", "jsonl", "events").stdout.splitlines()
    assert [list(json.loads(line)) for line in lines] == [EVENT_KEYS, EVENT_KEYS]
    assert json.loads(lines[0])["from"] is None
    assert "NULL -> STARTED" in ctl_at(place, "events").stdout
    assert set(asked.seen) == {control.ReadEvents(0, wait=False)}


def test_events_are_followed_until_interrupted_and_gaps_are_said(place, daemon) -> None:
    coming = {0: (event(7),), 7: (event(8),), 8: (event(12),)}

    def follow(request: Request) -> list[Answer]:
        assert isinstance(request, control.ReadEvents)
        newer = coming.get(request.after, ())
        return [control.EventsAre(newer)] if newer else []

    asked = daemon(follow)
    asking = started(place, "-o", "jsonl", "events", "-f")
    assert [json.loads(read_line(asking))["seq"] for _ in range(3)] == [7, 8, 12]
    wait_for(lambda: len(asked.seen) == 4)
    asking.send_signal(signal.SIGINT)
    rest, complaint = asking.communicate(timeout=10)
    assert (asking.returncode, rest) == (130, b"")
    assert complaint.startswith(b"geosched-ctl: 3 events missed")
    assert b"Traceback" not in complaint
    assert asked.seen[1:] == [control.ReadEvents(after, wait=True) for after in (7, 8, 12)]


def test_a_daemon_that_answers_empty_at_once_is_not_asked_without_pause(place, daemon) -> None:
    asked = daemon(answering(EMPTY))
    asking = started(place, "events", "-f")
    wait_for(lambda: len(asked.seen) >= 3)
    began, before = time.monotonic(), len(asked.seen)
    wait_for(lambda: len(asked.seen) >= before + 3)
    assert time.monotonic() - began > 0.5
    asking.terminate()
    asking.communicate(timeout=10)


def test_following_ends_when_the_daemon_is_gone(place) -> None:
    def follow(request: Request) -> list[Answer]:
        return [] if isinstance(request, control.ReadEvents) and request.wait else [EMPTY]

    leaving = CannedDaemon(place / "control.sock", follow)
    try:
        asking = started(place, "events", "-f")
        wait_for(lambda: len(leaving.seen) == 2)
    finally:
        leaving.close()
    _, complaint = asking.communicate(timeout=10)
    assert asking.returncode == 3
    assert b"nothing listens" in complaint
