"""Recovery at start: open runs paired with the results that their workers kept (S1, S2).

The rules are in `lifecycle.py`.
"""

from collections.abc import Collection, Iterable, Mapping

import msgspec

from ...ipc.messages.runs import RunResult
from .lifecycle import Rules, decide
from .model import Change, DaemonStarted, Instant, Record, Running


class Recovery(msgspec.Struct, frozen=True):
    """The outcome of a recovery.

    `stuck` are the actions whose runs could not be ended: they stay STARTED until those are
    gone. `strangers` are kept results that fit no open run.
    """

    changes: tuple[Change, ...]
    stuck: tuple[Record, ...]
    strangers: tuple[RunResult, ...]


def recover(
    started: Iterable[Record],
    kept: Mapping[str, RunResult],
    alive: Collection[str],
    now: Instant,
    rules: Rules,
) -> Recovery:
    """Settle every STARTED record. `kept` has the results by run id; `alive` are the ids of runs
    that are not gone yet."""
    changes: list[Change] = []
    stuck: list[Record] = []
    fitting: set[str] = set()
    for record in started:
        if not isinstance(record.state, Running):
            continue
        run_id = record.state.run.run_id
        fitting.add(run_id)
        if run_id in alive:
            stuck.append(record)
            continue
        change = decide(record, DaemonStarted(kept.get(run_id)), now, rules)
        if change is not None:
            changes.append(change)
    strangers = tuple(result for run_id, result in kept.items() if run_id not in fitting)
    return Recovery(tuple(changes), tuple(stuck), strangers)
