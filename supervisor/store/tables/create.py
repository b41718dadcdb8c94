"""Creation of the tables in a new store, and their migration in an old one.

The format number is read before anything else, and a store newer than this software is not
touched.
"""

from pathlib import Path

from .. import files, lmdb_env
from ..errors import StoreError
from ..py_lmdb import Environment
from . import meta, migrations
from .schema import Tables


def create_or_migrate(env: Environment, store_dir: Path) -> Tables:
    """Return the tables, made in a new store and migrated in an old one; all or nothing.

    Raises `StoreError`.
    """
    number = format_of(env, store_dir)
    with env.begin(write=True) as txn:
        open_table = lmdb_env.tables_of(env, txn)
        tables = Tables.open(open_table)
        if number is not None:
            migrations.migrate(txn, open_table, number)
        if number != migrations.FORMAT:
            meta.put_format(txn, tables, migrations.FORMAT)
    return tables


def format_of(env: Environment, store_dir: Path) -> int | None:
    """Return the format number of a store, None for an empty one; nothing is written.

    Raises `StoreError` where it is no daemonDB, or newer than this software.
    """
    table = lmdb_env.existing_table(env, b"meta")
    if table is None:
        if not lmdb_env.is_empty(env) or files.initialised(store_dir):
            raise StoreError(f"cannot use {store_dir}: what it holds is no daemonDB")
        return None
    try:
        with env.begin() as txn:
            number = meta.read_format(txn, table)
        migrations.check(number)
    except ValueError as error:
        raise StoreError(f"cannot use {store_dir}: {error}") from None
    return number
