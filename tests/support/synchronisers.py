"""Synchronisers as a daemon has them: forked by a real zygote, each with its file broker where
the tests run as root, and ordered over a real channel."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from geosched.ipc.channel import Channel
from geosched.ipc.messages.sync import (
    BackendAddress,
    Connected,
    ExchangeFailed,
    FromSynchroniser,
    NotModified,
    Page,
    Pull,
    Pulled,
    Report,
    Send,
    Taken,
)
from geosched.ipc.messages.zygote import Forked, ForkFailed, ForkSynchroniser
from geosched.ipc.wire import ProtocolError

from .wait import wait_for
from .workers import Host, host

BROKER_TITLE = b"geosched: file broker"


class Synchronisers:
    """The supervisor's side. `pid` is that of the newest one."""

    def __init__(self, running: Host) -> None:
        self.host = running
        self.pid = 0
        self.channel: Channel[Any, Any] = Channel(receives=FromSynchroniser)
        self._number = 0
        self._got: list[FromSynchroniser] = []

    @property
    def name(self) -> str:
        return f"synchroniser-{self._number}"

    def fork(self, backend: BackendAddress) -> None:
        """Have one for a backend, connected."""
        assert isinstance(self.asked_for(backend), Forked)
        self._next(Connected)

    def asked_for(self, backend: BackendAddress) -> Forked | ForkFailed:
        """The zygote's answer to a request for one."""
        self._number += 1
        with self.channel.open() as theirs:
            asked = ForkSynchroniser(self.name, backend)
            assert self.host.zygote.ask(asked, theirs.fileno())
        answer: Forked | ForkFailed = self.host.wait(
            lambda: next((m for m in self.host.from_zygote if _is_about(m, self.name)), None)
        )
        self.pid = answer.pid if isinstance(answer, Forked) else 0
        return answer

    def pull(self, backend: BackendAddress, **known: str) -> Pulled | NotModified | ExchangeFailed:
        self._order(Pull(self._number, backend, 0, **known))
        while isinstance(message := self._next(), Page):
            pass
        assert isinstance(message, Pulled | NotModified | ExchangeFailed)
        return message

    def send(self, backend: BackendAddress, *reports: Report) -> Taken | ExchangeFailed:
        self._order(Send(self._number, backend, reports))
        message = self._next()
        assert isinstance(message, Taken | ExchangeFailed)
        return message

    def brokers(self) -> list[int]:
        """Pids of the brokers that live."""
        children = Path(f"/proc/{self.host.zygote.pid}/task/{self.host.zygote.pid}/children")
        return [pid for pid in map(int, children.read_text().split()) if _is_broker(pid)]

    def _order(self, message: Pull | Send) -> None:
        assert self.channel.send(message)

    def _next(self, kind: Any = object) -> Any:
        wait_for(self._received, what=f"{kind} of the synchroniser")
        message = self._got.pop(0)
        assert isinstance(message, kind), message
        return message

    def _received(self) -> bool:
        for message in self.channel.drain():
            assert not isinstance(message, ProtocolError), message
            self._got.append(message)
        return bool(self._got)


def _is_about(message: Any, name: str) -> bool:
    return isinstance(message, Forked | ForkFailed) and message.name == name


def _is_broker(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(BROKER_TITLE)
    except FileNotFoundError:
        return False


@contextmanager
def synchronisers() -> Iterator[Synchronisers]:
    with host() as running:
        opened = Synchronisers(running)
        try:
            yield opened
        finally:
            opened.channel.close()
