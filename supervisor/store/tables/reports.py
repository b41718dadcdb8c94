"""What people may do with reports: look at them, give those set aside another chance, drop
them. Each call is one transaction of daemonDB; sending is `manager.py`'s."""

from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

from .outbox import Outbox, Pending
from .schema import Transaction

Result = TypeVar("Result")


class Transact(Protocol):
    """Carries out work in a transaction. Raises `StoreError`."""

    def __call__(self, work: Callable[[Transaction], Result], /) -> Result: ...


class Reports:
    def __init__(self, outbox: Outbox, read: Transact, write: Transact) -> None:
        self._outbox = outbox
        self._read = read
        self._write = write

    @property
    def refused(self) -> int:
        """Reports set aside after too many refusals; the newest thousand are kept."""
        return self._read(self._outbox.refused)

    def page(
        self, *, set_aside: bool, after: int, limit: int
    ) -> tuple[list[tuple[int, Pending]], int]:
        """At most `limit` reports behind a sequence number, oldest first, and the number to
        go on behind; 0 begins and ends."""
        return self._read(lambda txn: self._outbox.page(txn, set_aside, after, limit))

    def put_back(self) -> int:
        """Put what was set aside among what is to be sent, in its old order and as if it had
        never been refused; as many as there is room for. How many that were."""
        if not self.refused:
            return 0
        return self._write(self._outbox.put_back)

    def drop(self, sequences: Collection[int]) -> list[int]:
        """Forget reports that were set aside: all or none. Those that were not."""
        unknown = self._read(lambda txn: self._outbox.not_set_aside(txn, sequences))
        if sequences and not unknown:
            self._write(lambda txn: self._outbox.drop(txn, sequences))
        return unknown

    def drop_all(self) -> int:
        """Forget everything that was set aside. How many that were."""
        return self._write(self._outbox.drop_all) if self.refused else 0
