"""What `geosched-ctl` shows a person, as text."""

from typing import Any

import pytest
from geosched.ipc.ctl.commands.events import events_table
from geosched.ipc.ctl.commands.list import actions_table
from geosched.ipc.ctl.commands.logs import last_lines
from geosched.ipc.ctl.commands.show import action_sheet, runs_table
from geosched.ipc.ctl.commands.status import backend_line, status_sheet
from geosched.ipc.ctl.table import Column, Sheet, Table, cut, fit, plain_lines
from geosched.ipc.ctl.words import clean, short_time, span
from geosched.ipc.instants import parse_instant
from geosched.ipc.messages.views import (
    REASONS_JOINED_BY,
    STORE_REMOVED,
    STORE_REMOVED_WORDS,
    ActionView,
    BackendView,
    ClockView,
    DaemonView,
    EventView,
    OutboxView,
    RunView,
    StatusView,
    StoreView,
)

NOW = parse_instant("2026-11-23T08:00:00.000Z")
UUID = "6f1c2a34-9d1e-4b7a-8f00-0123456789ab"


def action(
    action_id: str = "a", from_date: str = "2026-11-23T07:00:00.000Z", **fields: Any
) -> ActionView:
    values: dict[str, Any] = {
        "id": action_id,
        "from_date": from_date,
        "to_date": "2026-11-23T12:30:05.000Z",
        "should_be_executed": True,
        "wanted": True,
        "app_names": ("Chrome", "Facebook"),
        "type": "default",
        "execution_status": "STARTED",
        "phase": "running",
        "reason": "due",
        "detail": "",
        "attempt": 1,
    }
    return ActionView(**{**values, **fields})


def status(**fields: Any) -> StatusView:
    values: dict[str, Any] = {
        "daemon": DaemonView(7, "0.1.0", "2026-11-23T07:00:00.000Z", 3600.0),
        "counts": {"NULL": 3, "STARTED": 1, "FAILED": 0},
        "running": 1,
        "queued": 2,
        "next_edge": "2026-11-23T08:03:20.000Z",
        "backend": BackendView("http", "2026-11-23T07:59:48.000Z", True, None),
        "outbox": OutboxView(0),
        "clock": ClockView(True),
        "containment": "cgroup2",
        "store": StoreView("ok", 4 * 2**20, 64 * 2**20, "ext4", True),
    }
    return StatusView(**{**values, **fields})


def text(sheet: Sheet) -> str:
    return "\n".join(plain_lines(sheet))


def test_a_list_on_a_terminal_of_80_columns_stays_within_them() -> None:
    rows = [
        action(UUID),
        action(
            "x" * 200,
            "2026-11-23T07:00:01.000Z",
            execution_status="WONT_FINISH",
            phase="scheduled",
            detail="y" * 300,
        ),
    ]
    table = actions_table(rows, NOW)
    lines = plain_lines([fit(table, 80)])
    assert max(map(len, lines)) <= 80
    assert "…" in lines[1]
    assert lines[1].startswith("6f1c2")
    assert "789ab  11-23 07:00" in lines[1]


def test_a_list_that_fits_is_not_cut() -> None:
    table = actions_table([action("short")], NOW)
    assert fit(table, 80) == table


def test_a_list_that_is_piped_holds_whole_ids() -> None:
    assert "x" * 200 in text([actions_table([action("x" * 200)], NOW)])


def test_columns_are_aligned_and_have_no_trailing_blanks() -> None:
    first, second, third = text(
        [actions_table([action("a"), action("longer", execution_status=None)], NOW)]
    ).split("\n")
    assert first == "ID      FROM (UTC)   TO (UTC)        PHASE    STATUS   WHY"
    assert second == "a       11-23 07:00  11-23 12:30:05  running  STARTED  due"
    assert third == "longer  11-23 07:00  11-23 12:30:05  running  NULL     due"


@pytest.mark.parametrize(
    ("instant", "shown"),
    [
        (None, "-"),
        ("2026-11-23T08:00:05.000Z", "11-23 08:00:05"),
        ("2026-11-25T09:00:00.000Z", "11-25 09:00"),
        ("2028-01-01T00:00:00.000Z", "2028-01-01"),
        ("1999-01-01T00:00:07.123Z", "1999-01-01"),
    ],
)
def test_an_instant_is_as_short_as_its_distance_allows(instant: str | None, shown: str) -> None:
    assert short_time(instant, NOW) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 m"),
        (200, "3 m 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 m"),
        (90_000_000, "1041 d 16 h"),
        (-5, "0 s"),
    ],
)
def test_a_span_is_said_in_its_two_largest_units(seconds: float, shown: str) -> None:
    assert span(seconds) == shown


@pytest.mark.parametrize(
    "hostile",
    ["\x1b[31mred", "a\nb", "a\rb", "bell\x07", "\x9b2J", "\u202eturned", "\u2028line", "\x00"],
)
def test_nothing_from_outside_reaches_a_terminal_as_control(hostile: str) -> None:
    shown = text(
        [
            actions_table([action(hostile, reason=hostile, detail=hostile, phase=hostile)], NOW),
            *action_sheet(
                action(hostile, type=hostile, app_names=(hostile,), run=None),
                [RunView("r", 1, signal=hostile, reason=hostile, detail=hostile)],
                NOW,
            ),
            *status_sheet(
                status(
                    backend=BackendView(
                        "http",
                        last_pull_ok=False,
                        last_error=hostile,
                        quarantined=1,
                        quarantine=(hostile,),
                        last_report_error=hostile,
                    )
                ),
                NOW,
            ),
        ]
    )
    assert hostile not in shown
    assert all(line.isprintable() for line in shown.split("\n"))


def test_printable_text_of_any_language_is_left_alone() -> None:
    assert clean("Größe 大きさ 🙂") == "Größe 大きさ 🙂"


def test_status_says_how_it_goes_in_a_few_lines() -> None:
    assert text(status_sheet(status(), NOW)).split("\n") == [
        "geoschedd    0.1.0, process 7, up 1 h",
        "actions      3 NULL, 1 STARTED",
        "runs         1 running, 2 queued",
        "next edge    in 3 m 20 s, at 2026-11-23 08:03:20 UTC",
        "backend      ok (http), pulled 12 s ago",
        "reports      none waiting",
        "clock        trusted",
        "database     ok, 4.0 MiB of 64.0 MiB on ext4, backed up never",
        "containment  cgroup2",
    ]


def test_status_tells_why_workers_share_less_memory_and_nothing_where_they_share_it() -> None:
    off = status(immortal_heap="off: it needs Python 3.12 or later, and this is cpython 3.11")
    lines = text(status_sheet(off, NOW)).split("\n")
    assert "immortal     off: it needs Python 3.12 or later, and this is cpython 3.11" in lines
    for state in ("on", ""):
        assert "immortal" not in text(status_sheet(status(immortal_heap=state), NOW))


def test_status_names_the_user_of_exchanges_where_it_is_not_the_daemons() -> None:
    as_user = status(backend=BackendView("http", user="65529"))
    assert "exchanges    as user 65529" in text(status_sheet(as_user, NOW)).split("\n")


def test_status_draws_attention_to_what_an_operator_would_not_look_for() -> None:
    shown = text(
        status_sheet(
            status(
                stuck=1,
                daemon=DaemonView(7, "1", "", 1.0, shutting_down=True, degraded="disk full"),
                backend=BackendView("http", quarantined=2, quarantine=("b: no toDate",)),
                outbox=OutboxView(4, "2026-11-23T07:00:00.000Z", dropped=3, refused=1),
            ),
            NOW,
        )
    )
    for part in ("shutting down", "disk full", "1 stuck", "2 entries", "b: no toDate"):
        assert part in shown
    assert "4 waiting, the oldest of 1 h ago" in shown
    assert "3 reports dropped" in shown
    assert "1 reports refused" in shown


def test_a_removed_database_hides_no_other_reason_for_which_the_daemon_is_degraded() -> None:
    reasons = REASONS_JOINED_BY.join((STORE_REMOVED_WORDS, "no answer of the zygote"))
    shown = text(
        status_sheet(
            status(
                daemon=DaemonView(7, "1", "", 1.0, degraded=reasons),
                store=StoreView(STORE_REMOVED, 4 * 2**20, 64 * 2**20, "ext4", True),
            ),
            NOW,
        )
    )
    assert "degraded: no answer of the zygote" in shown
    assert STORE_REMOVED_WORDS not in shown
    assert shown.count("degraded") == 1
    alone = DaemonView(7, "1", "", 1.0, degraded=STORE_REMOVED_WORDS)
    removed = StoreView(STORE_REMOVED, 4 * 2**20, 64 * 2**20, "ext4", True)
    assert "degraded" not in text(status_sheet(status(daemon=alone, store=removed), NOW))


def test_a_failing_backend_says_since_when_and_why() -> None:
    failing = BackendView(
        "http",
        last_pull_ok=False,
        last_error="cannot reach it: refused",
        last_success_at="2026-11-23T06:00:00.000Z",
    )
    assert backend_line(failing, NOW) == (
        "failing (http) since 2026-11-23 06:00:00 UTC, 2 h ago: cannot reach it: refused"
    )
    never = BackendView("http", last_pull_ok=False, last_error="no")
    assert backend_line(never, NOW) == "failing (http) from the start: no"
    assert backend_line(BackendView("file"), NOW) == "not pulled yet (file)"


def test_show_tells_how_each_run_ended() -> None:
    runs = [
        RunView("r3", 3, worker_pid=5, script_pid=6, started_at="2026-11-23T07:59:00.000Z"),
        RunView("r2", 2, ended_at="2026-11-23T07:58:00.000Z", signal="SIGTERM"),
        RunView("r1", 1, ended_at="2026-11-23T07:57:00.000Z", exit_code=3, reason="exit-code"),
        RunView("r0", 1, ended_at="2026-11-23T07:57:00.000Z", reason="cannot-start"),
    ]
    assert [row[3] for row in runs_table(runs, NOW).rows] == ["running", "SIGTERM", "exit 3", "-"]
    shown = text(action_sheet(action(UUID), runs, NOW))
    assert "exit 3" in shown
    assert UUID in shown
    assert "Chrome, Facebook" in shown
    assert "2026-11-23 12:30:05 UTC, in 4 h 30 m" in shown


def test_what_the_backend_says_is_shown_where_it_is_not_what_is_wanted() -> None:
    shown = text(action_sheet(action(wanted=False), (), NOW))
    assert "no (shouldBeExecuted: yes)" in shown


def test_events_that_come_one_by_one_stand_below_each_other() -> None:
    def lines(seq: int, *, titled: bool) -> list[str]:
        event = EventView(seq, "2026-11-23T08:00:00.000Z", "a", None, "STARTED", "due", None)
        return plain_lines([events_table([event], NOW, titled=titled)])

    (title, first), (second,) = lines(9, titled=True), lines(1000, titled=False)
    assert first.index("NULL -> STARTED") == second.index("NULL -> STARTED")
    assert title.index("CHANGE") == first.index("NULL -> STARTED")


@pytest.mark.parametrize(
    ("width", "middle", "shown"),
    [(8, True, "abcdefgh"), (5, True, "ab…gh"), (4, True, "ab…h"), (4, False, "abc…")],
)
def test_text_is_cut_to_exactly_its_width(width: int, middle: bool, shown: str) -> None:
    assert cut("abcdefgh", width, middle=middle) == shown


def test_a_column_that_is_narrow_already_is_not_widened() -> None:
    table = Table((Column("A", 12), Column("B")), (("a", "b" * 30),))
    assert fit(table, 10) == table


@pytest.mark.parametrize(
    ("data", "lines", "kept"),
    [
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\rb\nc\n", 2, b"a\rb\nc\n"),
        (b"a\n\n\n", 2, b"\n\n"),
        (b"a\n", 5, b"a\n"),
        (b"a\nb\n", 0, b""),
        (b"", 3, b""),
    ],
)
def test_the_last_lines_are_counted_by_line_feeds(data: bytes, lines: int, kept: bytes) -> None:
    assert last_lines(data, lines) == kept
