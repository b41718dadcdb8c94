"""Parser of snapshots: the body of a response, checked entry by entry (SPEC S8). Pure.

The body counts as a whole or not at all; an entry in it that cannot be used is set aside
alone. What a snapshot changes is decided in `supervisor/core/reconcile.py`.
"""

import codecs
import re
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import TypeAlias, TypeVar

import msgspec

from ....ipc.actions import Action, EntryError, parse_entry
from ....ipc.decoding import DECODE_ERRORS
from ....ipc.messages.sync import (
    LONG_OVER_US,
    REASON_CHARS_MAX,
    SET_ASIDE_MAX,
    ErrorKind,
    NotModified,
    Pull,
    SetAside,
)
from ..base import ExchangeError, Snapshot

#: All ids of entries set aside that are passed on.
SET_ASIDE_IDS_BYTES_MAX = 1024 * 1024
#: Bytes that msgpack adds to a string, at most.
_STRING_BYTES_MORE = 5

_DIFFERENT_TWINS = "cannot use the entry: its id is sent twice with different content"


class _Wrapped(msgspec.Struct):
    actions: list[msgspec.Raw]


Decoded = TypeVar("Decoded")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
#: Any escape; a lone half of a surrogate pair is its group 1.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_Body: TypeAlias = list[msgspec.Raw] | _Wrapped
_decode_body = msgspec.json.Decoder(_Body).decode


def unwrap_array(body: bytes) -> list[msgspec.Raw]:
    """Return the entries of a JSON array, bare or under `actions`."""
    decoded = decode_strictly(body, _decode_body, "JSON array of actions")
    return decoded.actions if isinstance(decoded, _Wrapped) else decoded


def decode_strictly(body: bytes, decode: Callable[[bytes], Decoded], what: str) -> Decoded:
    """Return `decode(body)`; `what` names the expected content in an error.

    Raises `ExchangeError` (bad-answer).
    """
    body = body.removeprefix(codecs.BOM_UTF8)  # which RFC 8259, 8.1 lets a reader ignore
    try:
        body.decode()  # strict for all of it, the fields that nobody reads included
        return decode(lone_surrogates_as_nul(body))
    except DECODE_ERRORS as error:
        reason = "it is HTML" if body.lstrip()[:1] == b"<" else str(error) or "nested too deep"
        detail = f"cannot use the answer: no {what}: {reason}"
        raise ExchangeError(ErrorKind.BAD_ANSWER, detail) from None


def lone_surrogates_as_nul(body: bytes) -> bytes:
    """Return JSON text with NUL for every escape of one half of a surrogate pair.

    Writers that cut a text inside a character leave one; it would make the whole body
    unreadable, where NUL costs only the entry whose text it is in.
    """
    return _ESCAPE.sub(_half_as_nul, body) if _SURROGATE.search(body) else body


def _half_as_nul(escape: re.Match[bytes]) -> bytes:
    return rb"\u0000" if escape[1] else escape[0]


def read_snapshot(
    body: bytes,
    etag: str,
    pull: Pull,
    unwrap: Callable[[bytes], list[msgspec.Raw]] = unwrap_array,
) -> Snapshot | NotModified:
    """Return the snapshot in `body`, which came with `etag` ("" for none) in response to `pull`.

    `unwrap` takes the entries out of the body, and raises `ExchangeError` where it cannot. A
    body with the digest of `pull` is not read again, unless its ETag is new.
    Raises `ExchangeError` (bad-answer, too-large).
    """
    digest = digest_of(body)
    if digest == pull.digest and etag in ("", pull.etag):
        return NotModified(pull.exchange)
    sorted_out = _SortedOut()
    for raw in unwrap(body):
        sorted_out.add(raw)
        if sorted_out.nameless_total > pull.backend.max_actions:
            break  # too many already, and there may be millions
    _refuse_too_many(sorted_out, pull)
    return sorted_out.snapshot(etag, digest)


def digest_of(body: bytes) -> str:
    """Return the digest by which an unchanged body is recognised: 32 hex digits."""
    return blake2b(body, digest_size=16).hexdigest()


class _SortedOut:
    """Entries of one body: good and bad ones by id, and those without a readable id.

    An id is bad when one of its entries is, or when two of them differ.
    """

    def __init__(self) -> None:
        self.good: dict[str, Action] = {}
        self.bad: dict[str, str] = {}
        self.nameless_total = 0
        self._nameless: list[SetAside] = []

    def add(self, raw: msgspec.Raw) -> None:
        try:
            action = parse_entry(raw)
        except EntryError as error:
            self._set_aside(error)
            return
        if self.good.setdefault(action.id, action) != action:
            self.bad.setdefault(action.id, _DIFFERENT_TWINS)

    def _set_aside(self, error: EntryError) -> None:
        if error.id is not None:
            self.bad.setdefault(error.id, error.reason)
            return
        self.nameless_total += 1
        if self.nameless_total <= SET_ASIDE_MAX:
            self._nameless.append(SetAside(None, error.reason[:REASON_CHARS_MAX]))

    def snapshot(self, etag: str, digest: str) -> Snapshot:
        ids = _that_fit(self.bad)
        named = [
            SetAside(action_id, reason[:REASON_CHARS_MAX]) for action_id, reason in self.bad.items()
        ]
        return Snapshot(
            tuple(action for action in self.good.values() if action.id not in self.bad),
            etag,
            digest,
            set_aside=tuple((named + self._nameless)[:SET_ASIDE_MAX]),
            set_aside_ids=ids,
            set_aside_total=len(self.bad) + self.nameless_total,
            # An id that is not passed on protects its action like one that cannot be read.
            unreadable_ids=self.nameless_total + len(self.bad) - len(ids),
        )


def _that_fit(ids: Iterable[str]) -> tuple[str, ...]:
    """Return the first ids, as many as are passed on."""
    fitting: list[str] = []
    left_bytes = SET_ASIDE_IDS_BYTES_MAX
    for action_id in ids:
        left_bytes -= len(action_id.encode()) + _STRING_BYTES_MORE
        if left_bytes < 0:
            break
        fitting.append(action_id)
    return tuple(fitting)


def _refuse_too_many(sorted_out: _SortedOut, pull: Pull) -> None:
    long_over_us = pull.now_us - LONG_OVER_US
    over = sum(1 for action in sorted_out.good.values() if action.to_us < long_over_us)
    known_bad = sum(1 for action_id in sorted_out.bad if action_id not in sorted_out.good)
    counted = len(sorted_out.good) - over + known_bad + sorted_out.nameless_total
    if counted > pull.backend.max_actions:
        detail = f"cannot use the answer: {counted} actions, more than {pull.backend.max_actions}"
        raise ExchangeError(ErrorKind.TOO_LARGE, detail)
