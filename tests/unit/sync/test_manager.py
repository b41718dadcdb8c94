"""What a client asks the sync manager for, and what was under way when it asked."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from geosched.ipc.messages.sync import ErrorKind, ExchangeFailed, Pull
from geosched.supervisor.config.sections import BackendSettings
from geosched.supervisor.store.tables.meta import Meta
from geosched.supervisor.sync.manager import SyncManager
from support.exchange_side import Side


class Asked:
    """A manager with a synchroniser that answers as it is told."""

    def __init__(self, runtime_dir: Path) -> None:
        self.side = Side(runtime_dir)
        db = SimpleNamespace(meta=Meta("generation", "device"), outbox_depth=0)
        settings = BackendSettings(kind="http", url="http://backend/")
        self.manager = SyncManager(
            settings,
            self.side.runner,
            db,
            quiet_seconds=lambda _now: 0.0,
        )

    def turn(self) -> None:
        self.manager.gather(self.side.take_news(), self.side.now)

    def begins_to_pull(self) -> None:
        self.turn()
        if not self.side.orders:
            self.side.forked()
            self.turn()

    def fails(self) -> None:
        order = self.side.orders[-1]
        assert isinstance(order, Pull)
        self.side.say(ExchangeFailed(order.exchange, ErrorKind.BUSY, "answers 429", 600.0))
        self.turn()

    @property
    def pulls(self) -> int:
        return sum(isinstance(order, Pull) for order in self.side.orders)


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


def test_a_pull_that_failed_is_not_repeated_before_its_wait_is_over(asked: Asked):
    asked.manager.want_pull()
    asked.begins_to_pull()
    asked.fails()
    asked.turn()
    assert asked.pulls == 1


def test_who_asked_while_a_pull_was_under_way_does_not_wait_because_that_fails(asked: Asked):
    asked.manager.want_pull()
    asked.begins_to_pull()
    request = asked.manager.ask()
    asked.fails()
    assert asked.pulls == 2
    assert (request.begun, request.done) == (True, False)
    asked.fails()
    asked.turn()
    assert (request.done, request.error) == (True, "cannot pull: busy: answers 429")
    assert asked.pulls == 2


def test_who_asked_while_a_comparison_was_under_way_does_not_wait_because_that_fails(asked: Asked):
    comparison = asked.manager.ask_comparison()
    asked.begins_to_pull()
    request = asked.manager.ask()
    asked.fails()
    assert comparison.done
    assert (asked.pulls, request.begun) == (2, True)
