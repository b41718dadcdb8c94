"""Faults that are put into the rules one at a time: the simulated host finds each.

A mutation is a piece of a module's text replaced by another, in a copy that only this test
loads; the module is `lifecycle.py` where no other is named.
"""

import re
import shutil
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
from geosched.supervisor import loop
from geosched.supervisor.core import lifecycle, reconcile, recovery, run_end, turn
from geosched.supervisor.runs import end_batch, pool, pooled_worker
from geosched.supervisor.scheduler import agenda, due

from . import daemon
from .simulation import simulate
from .world import BrokenRuleError

SEEDS_MAX = 50
#: Where the rest of the daemon, as it is simulated, has the names of a module.
USED = {
    lifecycle: (
        *((user, "decide") for user in (turn, recovery, reconcile)),
        (reconcile, "first_seen"),
    ),
    run_end: ((lifecycle, "began_in_time"),),
    agenda: ((daemon, "Agenda"),),
    pooled_worker: ((pool, "PooledWorker"),),
    end_batch: ((loop, "EndBatch"),),
    due: ((daemon, "DueEvents"),),
    loop: ((daemon, "Loop"),),
}


@dataclass(frozen=True)
class Mutation:
    """`rule` is what the fault has to be found by, as it is told: a pattern. `seed` is that of a
    year that finds it, so that it is lived first: once that has changed, the others follow."""

    name: str
    old: str
    new: str
    rule: str
    module: types.ModuleType = lifecycle
    seed: int = 1


MUTATIONS = (
    Mutation(
        "a run that is stopped at its window's end is WONT_FINISH",
        "StopReason.WINDOW_OVER: (ExecutionStatus.FINISHED",
        "StopReason.WINDOW_OVER: (ExecutionStatus.WONT_FINISH",
        "WONT_FINISH, and not FINISHED",
    ),
    Mutation(
        "a later reason to stop replaces the first",
        "case Running(run) if _window_over(record, now) and run.stop in (None, StopReason.CHANGED)",
        "case Running(run) if _window_over(record, now) and run.stop is not StopReason.WINDOW_OVER",
        "S13a",
        seed=3,
    ),
    Mutation(
        "what is not wanted and NULL stays so",
        "            return _over_without_run(record, Reason.WITHDRAWN, now, before=before)",
        "            return _stored(before, record)",
        "S4|S9: it is not wanted",
    ),
    Mutation(
        "WONT_START and WONT_FINISH are confused",
        "started = record.attempt > 0",
        "started = record.attempt == 0",
        "S3: a new action is NULL or WONT_START",
    ),
    Mutation(
        "a stop is not recorded",
        "state = Running(replace(run, stop=reason))",
        "state = Running(run)",
        "S",
    ),
    Mutation(
        "a back-off goes on beyond the window's end",
        "case Waiting() as waiting if _window_missed(record, now):",
        "case Waiting() as waiting if record is None:",
        "S",
    ),
    Mutation(
        "an operator's stop leaves a terminal status",
        "            return None  # S6: whatever the backend, the clock or a late message says",
        "            return _over(record, ExecutionStatus.WONT_FINISH, Reason.OPERATOR, now,"
        " before=record) if isinstance(event, StopAsked) else None",
        "S6",
    ),
    Mutation(
        "the next attempt does not wait for its back-off",
        "if waits and action.id not in self._held:",
        "if waits:",
        "S12a",
        agenda,
    ),
    Mutation(
        "from the fifth attempt on, a restart of the daemon is not held back",
        "hold = Hold(now.wall_us, delay) if held else None",
        "hold = None",
        "S12a",
        seed=6,
    ),
    Mutation(
        "a start-up asks for the window before it asks how the run ended",
        "    if kept is not None and kept.run_id != run.run_id:\n        kept = None\n",
        "    if _window_over(record, now):\n"
        "        return _interrupted(record, None, Reason.INTERRUPTED, now)\n",
        "WONT_FINISH, and not",
        seed=8,
    ),
    Mutation(
        "a daemon that leaves settles what its own stop has ended",
        "    if reason is not None or (event.daemon_leaving and not exit_was_observed(result)):",
        "    if reason in _SETTLED_BY_STOP:",
        "and not",
    ),
    Mutation(
        "a clock that is not trusted ends windows",
        "    return now.trusted and record.action.to_us <= now.wall_us",
        "    return record.action.to_us <= now.wall_us",
        "S",
    ),
    Mutation(
        "a change of apps is stored, and the run goes on with the old ones",
        "case Running(run) if run.stop is None and not record.action.same_work(action):",
        "case Running(run) if run is None:",
        "S15",
        seed=5,
    ),
    Mutation(
        "attempts are not counted",
        "    attempt = record.attempt + 1\n",
        "    attempt = max(record.attempt, 1)\n",
        "S18|S12: it ended",  # two runs of one id: the second is one that was reported, or over
    ),
    Mutation(
        "an attempt is committed for a worker that is not ready yet",
        "        return self.ready and self.known",
        "        return self.usable",
        "S9: committed without a worker",
        pooled_worker,
    ),
    Mutation(
        "what never began is FINISHED at the end of its window",
        "    return begun_us is not None and begun_us < until_us",
        "    return True",
        "FINISHED, and not WONT_FINISH",
        run_end,
        seed=14,
    ),
    Mutation(
        "what waits for a worker is settled a moment ahead",
        "    return now.trusted and record.action.to_us <= now.read_us",
        "    return now.trusted and record.action.to_us <= now.wall_us",
        "S10|S12a",
    ),
    Mutation(
        "an end that waits is acknowledged, and lost",
        "for result in self._ends.taken:",
        "for result in self.parts.pool.ended:",
        "S12: it ended, and is not settled|S2: its end waits, and nobody keeps it",
        loop,
    ),
    Mutation(
        "an end waits that is kept nowhere",
        "return unhurried and self._pool.cleanup.keeps_result(end.run_id)",
        "return unhurried",
        "S2: its end waits, and nobody keeps it",
        end_batch,
    ),
    Mutation(
        "an end waits for company that does not come",
        "until_monotonic is not None and now.monotonic_seconds >= until_monotonic",
        "False",
        "S12: it ended, and is not settled|law 7",
        end_batch,
    ),
    Mutation(
        "an end waits, and an action waits for its slot",
        "waits_for_slot = queue.without_slot and not slots",
        "waits_for_slot = False",
        "S14: it waits for a slot, and so does an end",
        due,
    ),
)


def mutated(mutation: Mutation) -> types.ModuleType:
    """A copy of the module with the fault in it."""
    original = mutation.module
    assert original.__file__ is not None
    source = Path(original.__file__).read_text()
    assert source.count(mutation.old) == 1, f"{original.__name__} has changed: {mutation.name}"
    module = types.ModuleType(f"{original.__name__}_mutated")
    module.__package__ = original.__package__
    sys.modules[module.__name__] = module  # where dataclasses look for their own
    try:
        exec(compile(source.replace(mutation.old, mutation.new), "mutated", "exec"), vars(module))
    finally:
        del sys.modules[module.__name__]
    return module


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_fault_in_the_rules_is_found_within_fifty_years(
    mutation: Mutation, directory: Path, monkeypatch: pytest.MonkeyPatch
):
    module = mutated(mutation)
    for user, name in USED[mutation.module]:
        monkeypatch.setattr(user, name, getattr(module, name))
    for seed in (mutation.seed, *(set(range(1, SEEDS_MAX + 1)) - {mutation.seed})):
        place = directory / str(seed)
        place.mkdir()
        try:
            simulate(seed, place)
        except BrokenRuleError as error:
            told = str(error).partition("\n")[0]
            print(f"found with seed {seed}: {told}")
            assert re.search(mutation.rule, told)
            return
        shutil.rmtree(place)
    pytest.fail(f"not found in {SEEDS_MAX} years: {mutation.name}")
