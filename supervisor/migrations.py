"""The format of daemonDB and the way from each older one; a newer store is refused.

A migration is frozen once released. It runs inside the transaction that raises the format
number, so a store is never half migrated.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from .tables import Transaction

#: The format this software writes.
FORMAT = 1

OpenTable: TypeAlias = Callable[[bytes], Any]
Migration: TypeAlias = Callable[[Transaction, OpenTable], None]

#: From each older format to the next; format 1 is the first.
MIGRATIONS: Mapping[int, Migration] = {}


def check(number: int) -> None:
    """Raises `ValueError` for a format this software cannot read."""
    if number > FORMAT:
        raise ValueError(f"its format {number} is newer than this software's {FORMAT}")
    if number < 1:
        raise ValueError(f"{number} is no format")


def migrate(txn: Transaction, open_table: OpenTable, number: int) -> None:
    """Bring a store of format `number`, which was checked, to the newest, step by step."""
    for step in range(number, FORMAT):
        MIGRATIONS[step](txn, open_table)
