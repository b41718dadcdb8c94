"""Backend `trpc`: the original backend, over tRPC 11 with superjson.

`actions.getAll` is a query, `actions.setExecutionStatus` a mutation for one status. Each call
is a request in tRPC's plain form; a response in the form of a batch of one is read too.

Superjson's notes on types are not read: dates of an action are ISO texts with or without them,
and null stands for undefined. Errors are told apart by their status, never by their text.
"""

import logging
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from ....ipc.instants import format_instant
from ....ipc.messages.sync import ErrorKind, NotModified, Pull, Report, Send, Taken
from ..auth.session import BackendExchange
from ..backend_files import FilesOf, LocalFiles
from ..base import Backend, ExchangeError, Snapshot
from ..bodies.snapshot import decode_strictly, read_snapshot
from ..bodies.status_reports import printable
from ..http.client import Response, load_late_parts
from ..http.errors import refusal, shown

QUERY = "/actions.getAll"
MUTATION = "/actions.setExecutionStatus"

#: Failed reports that end an exchange; until then each may have failed for its own reason.
FAILED_REPORTS_MAX = 5

_NOT_FOUND = 404
#: Statuses that refuse a report: its content is wrong, and stays so.
_ABOUT_THE_REPORT = (400, _NOT_FOUND, 409, 412, 413, 422)
#: Statuses that may be about one report or all: it stays pending, and others are tried.
_PERHAPS_ABOUT_THE_REPORT = (403, 500)
#: Statuses of a result: a batch of one has its call's, and 207 is for calls that differ.
_WITH_RESULT = (200, 207)

log = logging.getLogger(__name__)


class _ErrorData(msgspec.Struct):
    code: str = ""
    http_status: int = msgspec.field(default=0, name="httpStatus")


class _Error(msgspec.Struct):
    message: str = ""
    data: _ErrorData = msgspec.field(default_factory=_ErrorData)


class _WrappedError(msgspec.Struct):
    json: _Error


class _Entry(msgspec.Struct):
    """The response to one call: a result or an error."""

    result: msgspec.Raw = msgspec.Raw()
    error: _WrappedError | None = None


class _Data(msgspec.Struct):
    json: list[msgspec.Raw]


class _Actions(msgspec.Struct):
    data: _Data


_Body: TypeAlias = list[_Entry] | _Entry
_decode_body = msgspec.json.Decoder(_Body).decode
_decode_actions = msgspec.json.Decoder(_Actions).decode


class CallError(ExchangeError):
    """The backend responded to a call with an error of the HTTP status `status`."""

    def __init__(self, failed: ExchangeError, status: int, said: str) -> None:
        detail = f"{failed.detail} ({said})" if said else failed.detail
        super().__init__(failed.kind, detail, failed.retry_after_seconds)
        self.status = status


class TrpcBackend(Backend):
    """The original backend (INTERFACE, "Backend over tRPC")."""

    def __init__(self, files_of: FilesOf = LocalFiles) -> None:
        self._files_of = files_of

    def prepare(self) -> None:
        load_late_parts()

    def pull(self, pull: Pull) -> Snapshot | NotModified:
        with BackendExchange(pull.backend, self._files_of(pull.backend)) as exchange:
            body = _result_of(exchange.ask("GET", QUERY, {}))
        return read_snapshot(body, "", pull, actions_in)

    def send(self, send: Send) -> Taken:
        """Make a call for each report; verdicts before an error count."""
        with BackendExchange(send.backend, self._files_of(send.backend)) as exchange:
            reporting = _Reporting(exchange)
            for report in send.reports:
                if not reporting.goes_on(report):
                    break
        return reporting.taken(send.exchange)


class _Reporting:
    """Verdicts of reports that are sent one after the other."""

    def __init__(self, exchange: BackendExchange) -> None:
        self._exchange = exchange
        self._accepted: list[str] = []
        self._refused: list[tuple[str, str]] = []
        self._failures: list[ExchangeError] = []
        self._takes_reports = False  # as far as it is known

    def goes_on(self, report: Report) -> bool:
        """Send one report; True where the next is worth trying."""
        try:
            self._tell(report)
        except CallError as error:
            if error.status in _ABOUT_THE_REPORT:
                self._refused.append((report.key, error.detail))
                return True
            self._failures.append(error)
            perhaps_alone = error.status in _PERHAPS_ABOUT_THE_REPORT
            return perhaps_alone and len(self._failures) < FAILED_REPORTS_MAX
        except ExchangeError as error:
            self._failures.append(error)
            return False
        self._accepted.append(report.key)
        return True

    def taken(self, exchange: int) -> Taken:
        """Return the verdicts; raise the first failure where there are none."""
        if self._failures:
            if not self._accepted and not self._refused:
                raise self._failures[0]
            log.warning(
                "Reports are cut short: %s",
                self._failures[0].detail,
                extra={"event": "reports-cut-short"},
            )
        return Taken(exchange, tuple(self._accepted), tuple(self._refused))

    def _tell(self, report: Report) -> None:
        headers = {"Content-Type": "application/json"}
        try:
            _result_of(self._exchange.ask("POST", MUTATION, headers, mutation_body(report)))
        except CallError as error:
            if error.status == _NOT_FOUND:
                self._require_the_mutation()
            raise

    def _require_the_mutation(self) -> None:
        """Raise `ExchangeError` (no-reports) where the backend lacks the mutation.

        To a POST, a missing procedure and a missing action are the same error. A GET of a
        mutation that exists is 405, and does nothing.
        """
        if self._takes_reports:
            return
        answer = self._exchange.ask("GET", MUTATION, {})
        try:
            _result_of(answer)
        except CallError as error:
            if error.status == _NOT_FOUND:
                detail = (
                    f"the backend takes no reports: {error.detail}"
                    " (report = false in the configuration stops the attempts)"
                )
                raise ExchangeError(ErrorKind.NO_REPORTS, detail) from None
        self._takes_reports = True


def mutation_body(report: Report) -> bytes:
    """Return the input of the mutation; its date needs superjson's note, or it stays text."""
    told: dict[str, Any] = {
        "id": report.action_id,
        "executionStatus": report.status,
        "at": format_instant(report.at_us),
        "idempotencyKey": report.key,
    }
    return msgspec.json.encode({"json": told, "meta": {"values": {"at": ["Date"]}, "v": 1}})


def _result_of(answer: Response) -> bytes:
    """Return the body of a response that has a result. Raises `ExchangeError`.

    A response from before the backend (a gateway's page, a portal) is judged by its status.
    """
    if 300 <= answer.status < 400:
        raise answer.refusal()
    body = answer.read()
    try:
        error = error_in(answer.discreet(body), answer.status, answer.headers, answer.url)
    except ExchangeError:
        if answer.status in _WITH_RESULT:
            raise
        raise answer.refusal() from None
    if error is not None:
        raise error
    if answer.status not in _WITH_RESULT:
        raise answer.refusal()
    return body


def error_in(body: bytes, status: int, headers: Mapping[str, str], url: str) -> CallError | None:
    """Return the error in a body, or None for a result. Raises `ExchangeError` (bad-answer).

    The error's own status counts, because the response's may be that of a whole batch.
    """
    wrapped = _only_entry(body).error
    if wrapped is None:
        return None
    data = wrapped.json.data
    status = data.http_status if 400 <= data.http_status < 600 else status
    said = printable(": ".join(part for part in (data.code, wrapped.json.message) if part))
    if status < 400:
        detail = f"cannot use the answer of {shown(url)}: it is an error without a status"
        return CallError(ExchangeError(ErrorKind.BAD_ANSWER, detail), status, said)
    return CallError(refusal(status, headers, url), status, said)


def actions_in(body: bytes) -> list[msgspec.Raw]:
    """Return the entries of the query's list. Raises `ExchangeError` (bad-answer)."""
    result = bytes(_only_entry(body).result)
    return decode_strictly(result, _decode_actions, "tRPC result with a list of actions").data.json


def _only_entry(body: bytes) -> _Entry:
    """Return the response to the one call made. Raises `ExchangeError` (bad-answer)."""
    return decode_strictly(body, _the_one, "tRPC answer")


def _the_one(body: bytes) -> _Entry:
    decoded: _Body = _decode_body(body)
    entries = decoded if isinstance(decoded, list) else [decoded]
    if len(entries) != 1:
        raise ValueError(f"{len(entries)} answers to one call")
    (entry,) = entries
    if entry.error is None and not bytes(entry.result):
        raise ValueError("neither a result nor an error")
    return entry
