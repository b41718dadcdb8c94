"""Values on disk: what was written comes back, and what was damaged is never believed."""

import msgspec
import pytest
from geosched.ipc.actions import Action, ExecutionStatus
from geosched.ipc.instants import FIRST_US, LAST_US
from geosched.ipc.messages.runs import StopReason
from geosched.supervisor.core.model import (
    Hold,
    Null,
    OpenRun,
    Over,
    Reason,
    Record,
    Running,
    RunRow,
    StatusChange,
    Waiting,
)
from geosched.supervisor.store.tables.codec import (
    DETAILS_BYTES_MIN,
    KIND_OF_STATUS,
    STATUSES,
    VALUE_FORMAT,
    Codec,
    DamagedRecordError,
    action_key,
    join,
    split,
    status_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from support.build import NOW_US, record, running

HEAD_BYTES = 6
BIG = 2**53
RECORDS = Codec(Record)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
MOMENTS = st.integers(FIRST_US, LAST_US)
HOLDS = st.builds(Hold, MOMENTS, st.floats(0, 1e6))
STATES = (
    st.builds(Null, st.none() | HOLDS)
    | st.builds(
        Running, st.builds(OpenRun, TEXTS, MOMENTS, st.none() | st.sampled_from(StopReason))
    )
    | st.builds(Waiting, HOLDS, st.booleans())
    | st.builds(Over, st.sampled_from([s for s in ExecutionStatus if s.terminal]))
)
ACTIONS = st.builds(
    Action,
    TEXTS.filter(bool),
    MOMENTS,
    MOMENTS,
    st.booleans(),
    st.lists(TEXTS, max_size=4).map(tuple),
    st.sampled_from(["default", "a.B-1_c"]),
    TEXTS,
)
ANY_RECORD = st.builds(
    Record,
    ACTIONS,
    st.booleans(),
    STATES,
    revision=st.integers(1, BIG),
    attempt=st.integers(0, BIG),
    failures=st.integers(0, BIG),
    reason=st.none() | st.sampled_from(Reason),
    detail=TEXTS,
    changed_us=MOMENTS,
)


def stored(value: Record) -> bytes:
    return RECORDS.encode(value, KIND_OF_STATUS[value.status])


@given(ANY_RECORD)
def test_every_record_comes_back_as_it_was(value):
    assert RECORDS.decode(stored(value)) == value


@given(ANY_RECORD)
def test_the_status_can_be_read_without_decoding(value):
    assert status_of(stored(value)) is value.status is RECORDS.decode(stored(value)).status


@given(st.builds(RunRow, TEXTS, st.integers(0, BIG), MOMENTS, st.none() | MOMENTS, detail=TEXTS))
def test_every_run_row_comes_back_as_it_was(row):
    codec = Codec(RunRow)
    assert codec.decode(codec.encode(row)) == row


@given(
    st.builds(
        StatusChange,
        MOMENTS,
        TEXTS,
        st.sampled_from(ExecutionStatus),
        st.sampled_from(ExecutionStatus),
        st.none() | st.sampled_from(Reason),
        st.integers(0, BIG),
    )
)
def test_every_status_change_comes_back_as_it_was(change):
    codec = Codec(StatusChange)
    assert codec.decode(codec.encode(change)) == change


@pytest.mark.parametrize(
    "value",
    [record(), running(), record(Waiting(Hold(NOW_US, 2.5), True), attempt=3)],
    ids=["null", "running", "waiting"],
)
def test_every_flipped_bit_is_found(value):
    good = stored(value)
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedRecordError, match="cannot read a value"):
            RECORDS.decode(bytes(bad))


@settings(max_examples=50)
@given(ANY_RECORD, st.data())
def test_a_flipped_bit_of_any_record_is_found(value, data):
    bad = bytearray(stored(value))
    bit = data.draw(st.integers(0, 8 * len(bad) - 1))
    bad[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedRecordError):
        RECORDS.decode(bytes(bad))


def test_every_shortened_value_is_found():
    good = stored(running())
    for length in range(len(good)):
        with pytest.raises(DamagedRecordError):
            RECORDS.decode(good[:length])


@given(st.binary(max_size=60))
def test_no_bytes_at_all_raise_anything_else(noise):
    with pytest.raises(DamagedRecordError):
        RECORDS.decode(noise)
    status_of(noise)


def test_a_value_of_another_format_is_named():
    other = bytes([VALUE_FORMAT + 1]) + stored(record())[1:]
    with pytest.raises(
        DamagedRecordError, match=f"cannot read a value of format {VALUE_FORMAT + 1}"
    ):
        RECORDS.decode(other)


def test_a_value_too_short_for_its_head_is_named():
    with pytest.raises(DamagedRecordError, match="cannot read a value of 3 bytes"):
        RECORDS.decode(b"\x01\x00\x00")


def test_a_sound_value_of_another_type_is_damaged_too():
    foreign = Codec(tuple[str, ...]).encode(("not", "a", "record"))
    with pytest.raises(DamagedRecordError):
        RECORDS.decode(foreign)


@pytest.mark.parametrize("instant_us", [FIRST_US - 1, LAST_US + 1, -(2**63), 2**64 - 1])
def test_a_sound_value_with_an_instant_that_nobody_can_show_is_damaged_too(instant_us: int):
    codec = Codec(RunRow)
    for row in (RunRow("r", 1, instant_us), RunRow("r", 1, 1, instant_us)):
        with pytest.raises(DamagedRecordError):
            codec.decode(codec.encode(row))


@pytest.mark.parametrize("damaged", [b"", b"\x01", b"\x01\x06rest", b"\x01\xffrest"])
def test_a_status_that_does_not_exist_is_none(damaged):
    assert status_of(damaged) is None


def test_the_numbers_of_the_statuses_are_part_of_the_format():
    assert [status.value for status in STATUSES] == [
        "NULL",
        "STARTED",
        "WONT_START",
        "WONT_FINISH",
        "FINISHED",
        "FAILED",
    ]


def test_a_record_written_by_the_first_version_is_still_read():
    """What is on disks out there. A change of this needs a migration."""
    body = msgspec.msgpack.encode(
        [["a", 1, 2, True, ["Chrome"], "default", ""], True, ["null", None], 7, 1, 0, None, "", 9]
    )
    written = Codec(msgspec.Raw).encode(msgspec.Raw(body))
    assert RECORDS.decode(written) == Record(
        Action("a", 1, 2, True, ("Chrome",)), True, Null(), 7, 1, changed_us=9
    )


@given(TEXTS, TEXTS)
def test_keys_are_sixteen_bytes_and_differ_with_the_id(one, other):
    assert len(action_key(one)) == 16
    assert (action_key(one) == action_key(other)) is (one == other)


@given(st.lists(TEXTS, max_size=20), st.text(st.characters(codec="utf-8"), max_size=260))
def test_what_is_not_stored_apart_is_short(names: list[str], args: str) -> None:
    """However it was told that it is: by its letters, or by encoding it."""
    stored, details = split(record(app_names=tuple(names), args=args))
    encoded = msgspec.msgpack.encode((tuple(names), args))
    assert bool(details) is (len(encoded) + HEAD_BYTES > DETAILS_BYTES_MIN)
    assert join(stored, details) == record(app_names=tuple(names), args=args)
