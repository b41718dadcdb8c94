"""The format of daemonDB and the way from each older one; a newer store is refused.

A migration is frozen once released. It runs inside the transaction that raises the format
number, so a store is never half migrated.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .storefile import StoreError

#: The format this software writes.
FORMAT = 1

#: From each older format to the next.
MIGRATIONS: Mapping[int, Callable[[Any], None]] = {}


def migrate(txn: Any, number: int, place: Path) -> int:
    """Bring a store of format `number` to `FORMAT`, inside `txn`; the format it then has.

    Raises `StoreError` for a newer one, and for one too old to be read.
    """
    if number > FORMAT:
        raise StoreError(
            f"cannot use {place}: its format {number} is newer than this software's {FORMAT}"
        )
    while number < FORMAT:
        step = MIGRATIONS.get(number)
        if step is None:
            raise StoreError(f"cannot use {place}: no way leads from its format {number}")
        step(txn)
        number += 1
    return number
