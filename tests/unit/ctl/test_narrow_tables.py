"""Tables on a narrow terminal keep what a person looks for: id, status and time."""

from geosched.ipc.ctl.commands import diff, events, outbox, show
from geosched.ipc.ctl.commands.list import actions_table
from geosched.ipc.ctl.table import Block, Column, Table, cut, fit, plain_lines
from geosched.ipc.instants import parse_instant
from geosched.ipc.messages.views import ActionView, EventView, RunView

NOW = parse_instant("2026-11-23T08:00:00.000Z")
UUID = "6f1c2a34-9d1e-4b7a-8f00-0123456789ab"
AT = "2026-11-23T07:00:01.000Z"
ACTION = ActionView(
    id=UUID,
    from_date=AT,
    to_date="2026-11-23T12:30:05.000Z",
    should_be_executed=True,
    wanted=True,
    app_names=("Chrome",),
    type="default",
    execution_status="WONT_FINISH",
    phase="scheduled",
    reason="window-missed",
    detail="y" * 300,
    attempt=1,
)


def shown(table: Table, width: int) -> list[str]:
    lines = plain_lines([fit(table, width)])
    assert max(map(len, lines)) <= width, lines
    return lines


def test_a_list_of_40_columns_has_id_status_and_time() -> None:
    titles, row = shown(actions_table([ACTION], NOW), 40)
    assert titles.split() == ["ID", "FROM", "(UTC)", "STATUS"]
    assert row == "6f1c2…789ab  11-23 07:00:01  WONT_FINISH"


def test_columns_come_back_as_a_terminal_grows() -> None:
    table = actions_table([ACTION], NOW)
    counts = [len(fit(table, width).columns) for width in range(39, 100)]
    assert counts == sorted(counts)
    assert {3, 4, 5, 6} <= set(counts)


def test_the_id_grows_again_where_columns_are_left_out() -> None:
    row = shown(actions_table([ACTION], NOW), 49)[1]
    assert row.split()[0] == f"{UUID[:10]}…{UUID[-9:]}"
    assert len(row) == 49


def test_other_tables_keep_what_they_are_about() -> None:
    event = EventView(123456, AT, UUID, from_="STARTED", to="WONT_FINISH", reason="window-over")
    assert shown(events.events_table([event], NOW), 40)[1] == (
        "11-23 07:00:01  6f1c2…89ab  …WONT_FINISH"
    )
    run = RunView("r", 1, 1234567, 1234568, AT, AT, exit_code=127, reason="exit-code")
    row = shown(show.runs_table([run], NOW), 40)[1]
    assert "11-23 07:00:01  exit 127  exit-c" in row
    for columns in (outbox.COLUMNS, diff.COLUMNS):
        shown(Table(columns, (("x" * 40, AT[5:19], UUID, "WONT_FINISH", "10 times"),)), 44)


def test_a_table_without_a_column_to_spare_stays_as_it_is() -> None:
    table = Table((Column("A", 12), Column("B")), (("a", "b" * 30),))
    assert fit(table, 10) == table


def test_a_text_may_be_cut_at_its_start() -> None:
    assert cut("NULL -> STARTED", 8, start=True) == "…STARTED"
    assert cut("NULL", 8, start=True) == "NULL"


def test_a_value_too_long_for_the_terminal_goes_on_below_its_first_line() -> None:
    block = Block((("why", "one two three four"), ("id", "x" * 20), ("type", "")))
    assert plain_lines([block], 16) == [
        *("why   one two", "      three four"),
        *("id    " + "x" * 10, "      " + "x" * 10),
        "type  ",
    ]
    assert plain_lines([block])[0] == "why   one two three four"
