"""The tables of a store: made in a new one, brought to the newest format in an old one.

The format number is the first thing that is read of a store, and what is newer than this
software is not touched.
"""

from pathlib import Path

from . import environment, migrations, storefile, storemeta
from .environment import Environment
from .storefile import StoreError
from .tables import Tables


def found(env: Environment, place: Path) -> Tables:
    """The tables, made in a new store and migrated in an old one; all or nothing."""
    number = format_of(env, place)
    with env.begin(write=True) as txn:
        open_table = environment.tables_of(env, txn)
        tables = Tables.open(open_table)
        if number is not None:
            migrations.migrate(txn, open_table, number)
        if number != migrations.FORMAT:
            storemeta.put_format(txn, tables, migrations.FORMAT)
    return tables


def format_of(env: Environment, place: Path) -> int | None:
    """The format of what is there, None where nothing is; the store is not touched. Raises
    `StoreError` where it is none of ours."""
    table = environment.existing_table(env, b"meta")
    if table is None:
        if not environment.is_empty(env) or storefile.initialised(place):
            raise StoreError(f"cannot use {place}: what it holds is no daemonDB")
        return None
    try:
        with env.begin() as txn:
            number = storemeta.read_format(txn, table)
        migrations.check(number)
    except ValueError as error:
        raise StoreError(f"cannot use {place}: {error}") from None
    return number
