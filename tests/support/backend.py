"""A real HTTP backend on loopback, to be talked to: it serves actions, records reports,
and fails on demand in every way that `FAULTS` names.

    with BackendServer() as backend:
        backend.set_actions([entry("a")])
        backend.fault = "drip-body"
        ... backend.url ...
"""

import json
import socket
import ssl
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from geosched.ipc.messages.sync import BackendAddress

from .faults import FAULTS, MEBIBYTE, RESET_ON_ACCEPT
from .loopback import Asked, HttpHandler, Loopback, tear_down


def entry(
    action_id: str,
    from_date: str = "2026-11-23T08:00:00.000Z",
    to_date: str = "2026-11-23T12:30:00.000Z",
    **fields: Any,
) -> dict[str, Any]:
    """One action as a backend sends it; `fields` add to it or replace."""
    base = {
        "id": action_id,
        "fromDate": from_date,
        "toDate": to_date,
        "shouldBeExecuted": True,
        "appNames": ["Chrome"],
    }
    return {**base, **fields}


def address(kind: str = "http", **fields: Any) -> BackendAddress:
    """Where a backend is, with small bounds; `fields` replace."""
    base: dict[str, Any] = {
        "url": "",
        "path": "",
        "token_file": "",
        "timeout_seconds": 5.0,
        "max_body_bytes": MEBIBYTE,
        "max_actions": 10_000,
    }
    return BackendAddress(kind, **{**base, **fields})


class BackendHandler(HttpHandler):
    @property
    def backend(self) -> "BackendServer":
        owner = self.server.owner
        assert isinstance(owner, BackendServer)
        return owner

    def answer(self, asked: Asked) -> None:
        backend = self.backend
        if backend.fault and asked.method in backend.fault_methods:
            FAULTS[backend.fault](self)
        elif backend.token and self.headers.get("Authorization") != f"Bearer {backend.token}":
            self.reply(401, b"")
        elif asked.method == "GET":
            self._send_snapshot()
        else:
            self._take_reports(asked)

    def _send_snapshot(self) -> None:
        backend = self.backend
        if self.path != "/api/actions":
            self.reply(404, b"")
            return
        body = backend.snapshot()
        headers = {}
        if backend.etags:
            headers["ETag"] = backend.etag or f'"{sha256(body).hexdigest()[:16]}"'
            if self.headers.get("If-None-Match") == headers["ETag"]:
                self.reply(304, b"", **headers)
                return
        self.reply(200, body, **headers)

    def _take_reports(self, asked: Asked) -> None:
        if self.path != "/api/actions/status":
            self.reply(404, b"")
            return
        key = self.headers.get("Idempotency-Key", "")
        self.reply(*self.backend.take(key, json.loads(asked.body)["reports"]))


@dataclass
class BackendServer(Loopback):
    """The backend; all fields may be changed while it runs, from any thread.

    `fault` is a name of `FAULTS` or "", and meets requests of `fault_methods` only. Reports
    are refused one by one (`reject_keys` and `reject_ids`, each to its error) or with their
    whole batch (`poison_keys`, with `poison_status`).
    """

    token: str = ""
    etags: bool = True
    fault: str = ""
    fault_methods: tuple[str, ...] = ("GET", "POST")
    fault_status: int = 503
    fault_headers: dict[str, str] = field(default_factory=dict)
    slow_seconds: float = 5.0
    reject_keys: dict[str, str] = field(default_factory=dict)
    reject_ids: dict[str, str] = field(default_factory=dict)
    ignore_keys: set[str] = field(default_factory=set)
    poison_keys: set[str] = field(default_factory=set)
    poison_status: int = 422
    itemised: bool = True  # answer reports with lists, not with an empty body
    report_answer: bytes | None = None  # exactly this body, whatever was sent
    report_status: int = 200
    report_script: list[tuple[int, bytes]] = field(default_factory=list)  # the next answers
    etag: str = ""  # exactly this ETag, whatever the actions
    body: bytes | None = None  # exactly this body instead of the actions
    tls: ssl.SSLContext | None = None

    handler = BackendHandler

    def __post_init__(self) -> None:
        self.reports: list[dict[str, Any]] = []  # every one taken, repetitions included
        self.batches: dict[str, int] = {}  # Idempotency-Key: how often it came
        self._actions: list[dict[str, Any]] = []
        super().__init__()

    @property
    def url(self) -> str:
        return self.url_of("/api")

    def lets_in(self, connection: socket.socket) -> bool:
        if self.fault == RESET_ON_ACCEPT:
            tear_down(connection)
            return False
        return True

    def set_actions(self, actions: list[dict[str, Any]]) -> None:
        with self._lock:
            self._actions = list(actions)

    def snapshot(self) -> bytes:
        with self._lock:
            return self.body if self.body is not None else json.dumps(self._actions).encode()

    def statuses(self) -> dict[str, list[str]]:
        """The statuses of each action in the order they first came; each key counts once."""
        with self._lock:
            first = {report["key"]: report for report in reversed(self.reports)}
            found: dict[str, list[str]] = {}
            for report in reversed(first.values()):
                found.setdefault(report["id"], []).append(report["executionStatus"])
            return found

    def take(self, key: str, reports: list[dict[str, Any]]) -> tuple[int, bytes]:
        """Status and body of the answer to a batch."""
        with self._lock:
            self.batches[key] = self.batches.get(key, 0) + 1
            if self.report_script:
                return self.report_script.pop(0)
            keys = {report["key"] for report in reports}
            if keys & self.poison_keys:
                return self.poison_status, b""
            rejected = {key: text for key, text in self.reject_keys.items() if key in keys}
            rejected |= {
                report["key"]: self.reject_ids[report["id"]]
                for report in reports
                if report["id"] in self.reject_ids
            }
            taken = [
                report
                for report in reports
                if report["key"] not in rejected and report["key"] not in self.ignore_keys
            ]
            self.reports += taken
        if self.report_answer is not None or not self.itemised:
            return self.report_status, self.report_answer or b""
        answer = {
            "accepted": [report["key"] for report in taken],
            "rejected": [{"key": key, "error": text} for key, text in rejected.items()],
        }
        return self.report_status, json.dumps(answer).encode()
