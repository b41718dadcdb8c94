"""From bytes to a checked snapshot, and from a snapshot to pages."""

import json
from typing import Any

import msgspec
import pytest
from geosched.ipc.actions import Action
from geosched.ipc.messages.sync import ErrorKind, NotModified, Page, Pull, Pulled
from geosched.ipc.wire import SYNC_FRAME_BYTES_MAX
from geosched.workers.sync.base import ExchangeError, Snapshot
from geosched.workers.sync.bodies.snapshot import SET_ASIDE_MAX, digest_of, read_snapshot
from geosched.workers.sync.synchroniser import PAGE_ACTIONS_MAX, PAGE_BYTES_MAX, pages
from support.backend import address, entry

NOW_US = 1_795_420_800_000_000  # 2026-11-23T08:00:00Z, when the windows of `entry` open


def pull(etag: str = "", digest: str = "", **limits: Any) -> Pull:
    return Pull(7, address(**limits), NOW_US, etag, digest)


def read(entries: Any, **limits: Any) -> Snapshot:
    snapshot = read_snapshot(json.dumps(entries).encode(), "", pull(**limits))
    assert isinstance(snapshot, Snapshot)
    return snapshot


def error_of(body: bytes, **limits: Any) -> ExchangeError:
    with pytest.raises(ExchangeError) as caught:
        read_snapshot(body, "", pull(**limits))
    return caught.value


def ids(snapshot: Snapshot) -> list[str]:
    return [action.id for action in snapshot.actions]


@pytest.mark.parametrize("wrap", [lambda entries: entries, lambda entries: {"actions": entries}])
def test_a_snapshot_is_an_array_bare_or_under_actions(wrap: Any) -> None:
    snapshot = read(wrap([entry("a"), entry("b", executionStatus="FAILED")]))
    assert ids(snapshot) == ["a", "b"]
    assert snapshot.set_aside_total == 0


def test_an_empty_array_is_a_snapshot_of_nothing() -> None:
    assert read([]).actions == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"null",
        b"42",
        b'"[]"',
        b"[1,",
        b"[] []",
        b'{"actions": {}}',
        b'{"data": []}',
        b"<html>",
        b'[{"id": "\xff"}]',
        b'{"actions": [], "note": "\xff"}',
        b"[" * 200_000,
    ],
)
def test_any_other_body_is_a_bad_answer_and_no_snapshot(body: bytes) -> None:
    error = error_of(body)
    assert error.kind is ErrorKind.BAD_ANSWER
    assert error.detail.startswith("cannot use the answer")


def test_html_is_called_by_its_name() -> None:
    assert "it is HTML" in error_of(b"\n <!doctype html>").detail


def test_an_unreadable_entry_costs_only_itself() -> None:
    snapshot = read([entry("a"), entry("b", toDate="soon"), entry("c")])
    assert ids(snapshot) == ["a", "c"]
    assert snapshot.set_aside_ids == ("b",)
    assert snapshot.set_aside_total == 1
    assert snapshot.unreadable_ids == 0
    assert "toDate" in snapshot.set_aside[0].reason


@pytest.mark.parametrize("broken", [{}, [], 1, None, {"id": 5}, {"id": ""}, {"id": "a\nb"}])
def test_an_entry_without_a_readable_id_is_counted(broken: Any) -> None:
    snapshot = read([broken, entry("a")])
    assert ids(snapshot) == ["a"]
    assert (snapshot.unreadable_ids, snapshot.set_aside_total) == (1, 1)
    assert snapshot.set_aside[0].id is None
    assert snapshot.set_aside_ids == ()


def test_identical_twins_count_once() -> None:
    snapshot = read([entry("a"), entry("a", updatedAt="today"), entry("b")])
    assert ids(snapshot) == ["a", "b"]
    assert snapshot.set_aside_total == 0


@pytest.mark.parametrize(
    "twins",
    [
        [entry("a"), entry("a", appNames=["Firefox"])],
        [entry("a"), entry("a"), entry("a", shouldBeExecuted=False)],
        [entry("a"), entry("a", toDate="soon")],
        [entry("a", toDate="soon"), entry("a")],
    ],
)
def test_an_id_sent_twice_with_different_content_is_set_aside_altogether(twins: Any) -> None:
    snapshot = read([*twins, entry("b")])
    assert ids(snapshot) == ["b"]
    assert snapshot.set_aside_ids == ("a",)
    assert snapshot.set_aside_total == 1


def test_more_actions_than_allowed_fail_the_whole_pull() -> None:
    body = json.dumps([entry("a"), entry("b"), {"id": "c"}, 5]).encode()
    error = error_of(body, max_actions=3)
    assert error.kind is ErrorKind.TOO_LARGE
    assert "4 actions, more than 3" in error.detail
    assert len(read(json.loads(body), max_actions=4).actions) == 2


def test_actions_long_over_are_passed_on_and_not_counted() -> None:
    day_before = ("2026-11-21T08:00:00Z", "2026-11-22T07:59:59Z")
    less_than_a_day = ("2026-11-21T08:00:00Z", "2026-11-22T08:00:01Z")
    old = [entry(f"old-{number}", *day_before) for number in range(5)]
    assert len(read([*old, entry("a")], max_actions=1).actions) == 6
    recent = entry("recent", *less_than_a_day)
    body = json.dumps([*old, entry("a"), recent]).encode()
    assert error_of(body, max_actions=1).kind is ErrorKind.TOO_LARGE


def test_the_names_of_what_is_set_aside_are_bounded_and_the_ids_are_not() -> None:
    broken = [entry(f"bad-{number}", fromDate=0) for number in range(SET_ASIDE_MAX + 50)]
    snapshot = read([*broken, *[None] * 200])
    assert len(snapshot.set_aside) == SET_ASIDE_MAX
    assert len(snapshot.set_aside_ids) == SET_ASIDE_MAX + 50
    assert snapshot.unreadable_ids == 200
    assert snapshot.set_aside_total == SET_ASIDE_MAX + 250


def test_ids_that_do_not_fit_a_frame_count_as_unreadable() -> None:
    broken = [{"id": f"{number:05}" + "€" * 195} for number in range(3000)]
    snapshot = read(broken)
    named = len(snapshot.set_aside_ids)
    assert 0 < named < 3000
    assert snapshot.unreadable_ids == 3000 - named
    assert len(msgspec.msgpack.encode(_pulled(snapshot))) < SYNC_FRAME_BYTES_MAX


def _pulled(snapshot: Snapshot) -> Pulled:
    return Pulled(
        1,
        0,
        "",
        snapshot.digest,
        snapshot.set_aside,
        snapshot.set_aside_ids,
        snapshot.set_aside_total,
        snapshot.unreadable_ids,
    )


def test_the_body_that_is_stored_already_is_not_modified() -> None:
    body = json.dumps([entry("a")]).encode()
    digest = digest_of(body)
    assert read_snapshot(body, "", pull("e1", digest)) == NotModified(7)
    assert read_snapshot(body, "e1", pull("e1", digest)) == NotModified(7)


def test_the_stored_body_under_a_new_etag_is_a_snapshot_so_that_the_etag_is_kept() -> None:
    body = json.dumps([entry("a")]).encode()
    snapshot = read_snapshot(body, "e2", pull("e1", digest_of(body)))
    assert isinstance(snapshot, Snapshot)
    assert snapshot.etag == "e2"


def test_another_body_is_a_snapshot_with_its_own_digest() -> None:
    body = json.dumps([entry("a")]).encode()
    snapshot = read_snapshot(body, "", pull("", digest_of(b"[]")))
    assert isinstance(snapshot, Snapshot)
    assert snapshot.digest == digest_of(body)


def _action(action_id: str, app_names: tuple[str, ...] = ()) -> Action:
    return Action(action_id, 0, 1, True, app_names)


def test_pages_keep_the_order_and_hold_a_bounded_number() -> None:
    actions = [_action(str(number)) for number in range(2 * PAGE_ACTIONS_MAX + 1)]
    parted = list(pages(actions))
    assert [len(page) for page in parted] == [PAGE_ACTIONS_MAX, PAGE_ACTIONS_MAX, 1]
    assert [action for page in parted for action in page] == actions
    assert list(pages([])) == []


def test_pages_are_bounded_in_bytes() -> None:
    actions = [_action(str(number), ("x" * 255,) * 50) for number in range(100)]
    for page in pages(actions):
        assert len(msgspec.msgpack.encode(page)) < PAGE_BYTES_MAX + 1024


def test_the_longest_valid_action_fits_a_frame() -> None:
    longest = read([entry("😀" * 200, appNames=["😀" * 255] * 1000, args="x" * 16_000)])
    (page,) = pages(longest.actions)
    assert len(msgspec.msgpack.encode(Page(1, page))) < SYNC_FRAME_BYTES_MAX
