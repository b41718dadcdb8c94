"""Rebuilding of the indexes `due` and `ended` from the records.

Indexes and records are written in the same transactions and agree; but where records were
lost, or merged from two stores, the old indexes mean nothing. Nothing outlives the
transaction it is given.
"""

from .codec import DamagedRecordError, action_key, decode_stored, edge_key
from .ended import Ended, EndedRows, encode_ended, row_of
from .outbox import Outbox
from .schema import Tables, Transaction, rows_from


def rebuild_indexes(txn: Transaction, tables: Tables, ended: EndedRows, outbox: Outbox) -> None:
    """Rebuild `due` and `ended`; rows of `ended` that still fit a record keep their values."""
    known = dict(ended.all(txn))
    unreported = outbox.last_of_each(txn)
    for table in (tables.due, tables.ended):
        txn.drop(table, delete=False)
    with txn.cursor(tables.actions) as at:
        for key, value in rows_from(at):
            try:
                record = decode_stored(value).record
            except DamagedRecordError:
                continue
            if record.edge_us is not None:
                txn.put(edge_key(record.edge_us, key), b"", db=tables.due)
                continue
            row = row_of(record, key)
            last = unreported.get(action_key(record.action.id), 0)
            txn.put(row, encode_ended(known.get(row) or Ended(False, last)), db=tables.ended)
