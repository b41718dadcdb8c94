"""Recovery at start: open runs paired with the results that their workers kept (S1, S2).

The rule for each is `lifecycle.py`'s.
"""

from collections.abc import Collection, Iterable, Mapping

import msgspec

from ...ipc.messages.runs import RunResult
from .lifecycle import Rules, decide
from .model import Change, DaemonStarted, Instant, Record, Running


class Recovery(msgspec.Struct, frozen=True):
    """`stuck` runs could not be ended: their actions stay STARTED until they are gone.

    `strangers` are kept results that fit no open run.
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
    """Settle every STARTED record; `kept` is by run id, `alive` are run ids not yet gone."""
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
