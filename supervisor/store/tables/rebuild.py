"""The indexes of daemonDB, made anew from the records they follow.

They always agree with the records, which are written in the same transactions; but where
records were lost, or put together from two stores, what is left of the old ones means
nothing. Nothing outlives the transaction it is given.
"""

from .codec import DamagedRecordError, action_key, decode_stored, edge_key
from .ended import Ended, EndedRows, encode_ended, row_of
from .outbox import Outbox
from .schema import Tables, Transaction, rows_from


def make_anew(txn: Transaction, tables: Tables, ended: EndedRows, outbox: Outbox) -> None:
    """`due` and `ended`. What was known of an ended action stays known."""
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
