"""Backend `http`: a JSON array of actions, reports in batches (INTERFACE, "plain HTTP").

Transport and deadline are those of `http/client.py`; bodies are read and written in `bodies/`.
"""

import logging
import re
from collections.abc import Sequence

from ....ipc.messages.sync import ETAG, ErrorKind, NotModified, Pull, Report, Send, Taken
from ..auth.session import BackendExchange
from ..backend_files import FilesOf, LocalFiles
from ..base import Backend, ExchangeError, Snapshot
from ..bodies.snapshot import read_snapshot
from ..bodies.status_reports import batch_body, batch_key, read_verdicts
from ..http.client import Response, load_late_parts

log = logging.getLogger(__name__)
#: Statuses of a whole batch that may be about one report in it.
_ABOUT_A_REPORT = (400, 413, 422)


class HttpBackend(Backend):
    """`GET {url}/actions` and `POST {url}/actions/status` (INTERFACE, "plain HTTP")."""

    def __init__(self, files_of: FilesOf = LocalFiles) -> None:
        self._files_of = files_of

    def prepare(self) -> None:
        load_late_parts()

    def pull(self, pull: Pull) -> Snapshot | NotModified:
        headers = {"If-None-Match": pull.etag} if pull.etag else {}
        with BackendExchange(pull.backend, self._files_of(pull.backend)) as exchange:
            answer = exchange.ask("GET", "/actions", headers)
            if answer.status == 304 and pull.etag:
                return NotModified(pull.exchange)
            if answer.status != 200:
                raise answer.refusal()
            body = answer.read()
        etag = answer.headers.get("ETag", "")
        return read_snapshot(body, etag if re.match(ETAG, etag) else "", pull)

    def send(self, send: Send) -> Taken:
        """Send all at once; halve a batch that is refused as a whole, down to the report at fault.

        An error after the first verdict ends the exchange with the verdicts so far: repeated
        from the start, a long halving might never end.
        """
        accepted: list[str] = []
        refused: dict[str, str] = {}
        waiting: list[Sequence[Report]] = [send.reports] if send.reports else []
        with BackendExchange(send.backend, self._files_of(send.backend)) as exchange:
            while waiting:
                batch = waiting.pop()
                try:
                    answer = _post(exchange, batch)
                    if answer.status in _ABOUT_A_REPORT and len(batch) > 1:
                        middle = len(batch) // 2
                        waiting += [batch[middle:], batch[:middle]]
                        continue
                    newly_accepted, newly_refused = _verdicts(answer, batch)
                except ExchangeError as error:
                    if not accepted and not refused:
                        raise
                    log.warning(
                        "Reports are cut short: %s",
                        error.detail,
                        extra={"event": "reports-cut-short"},
                    )
                    break
                accepted += newly_accepted
                refused |= newly_refused
        return Taken(send.exchange, tuple(accepted), tuple(refused.items()))


def _post(exchange: BackendExchange, batch: Sequence[Report]) -> Response:
    headers = {"Content-Type": "application/json", "Idempotency-Key": batch_key(batch)}
    return exchange.ask("POST", "/actions/status", headers, batch_body(batch))


def _verdicts(answer: Response, batch: Sequence[Report]) -> tuple[list[str], dict[str, str]]:
    """Return the accepted keys and the errors of refused ones, of a batch not halved further."""
    if answer.status in _ABOUT_A_REPORT:
        return [], {report.key: answer.refusal().detail for report in batch}
    if not 200 <= answer.status < 300:
        raise answer.refusal()
    body = answer.read()
    if not body:
        return [report.key for report in batch], {}
    try:
        if answer.status != 200:
            raise ValueError(f"a {answer.status} with a body")
        return read_verdicts(answer.discreet(body), batch)
    except ValueError as error:
        detail = f"cannot use the answer to a report: {error}"
        raise ExchangeError(ErrorKind.BAD_ANSWER, detail) from None
