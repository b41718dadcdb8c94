"""The simulated host around the daemon: its child processes, and what runs left on disk.

`Children`, `Line` and `Leftovers` stand for the daemon's own `children.py`, for its sockets
and for its `sweep.py`.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from geosched.ipc.messages.helper import LostRun
from geosched.ipc.messages.runs import (
    FromWorker,
    Ready,
    Release,
    Run,
    RunResult,
    Started,
    ToWorker,
)
from geosched.ipc.messages.sync import BackendAddress
from geosched.ipc.sockets import Peer
from geosched.supervisor.core.model import Instant
from geosched.supervisor.host.children import Child
from geosched.supervisor.participant import News, Participant
from geosched.supervisor.runs.lost_trees import ROUND_SECONDS, LostTree
from geosched.workers.host.liveness import Activity

from .workers import Script, Worker, ready
from .world import DeathError, KilledError, World

SWEEP_SECONDS = 0.2
SWEEP_SECONDS_MAX = 10.0


class Watcher(Protocol):
    """Who hears what processes do, to judge the daemon by it."""

    def script_starts(self, run_id: str, action_id: str) -> None: ...
    def begin_is_heard(self, run_id: str) -> None: ...
    def worker_saw_end(self, result: RunResult) -> None: ...
    def run_is_sent(self, order: Run) -> None: ...


class Process(Protocol):
    """A child that hears messages: a worker or a synchroniser."""

    pid: int

    def hear(self, message: Any) -> None: ...
    def be_killed(self) -> None: ...


class Host:
    def __init__(self, world: World, oracle: Watcher) -> None:
        self.world, self.oracle = world, oracle
        self.scripts: dict[str, Script] = {}  # what lives, by run
        self.workers: dict[str, Worker] = {}
        self.kept: dict[str, RunResult] = {}
        self.pids = itertools.count(100)
        self.plain_scripts = False  # they run until they are stopped, and chance has no say
        self.disk_full = False
        self.slow_commits = 0
        self.stalled_us = 0  # by a slow disk, in all
        self._dies_in: int | None = None
        self._dies_of: type[DeathError] = KilledError

    # --- the daemon's death at any step -----------------------------------------------------

    def doom(self, steps: int, death: type[DeathError]) -> None:
        """Let the daemon die so many steps from now, each a point between two effects."""
        self._dies_in, self._dies_of = steps, death

    def step(self) -> None:
        if self._dies_in is None:
            return
        self._dies_in -= 1
        if self._dies_in < 0:
            self._dies_in = None
            raise self._dies_of

    def daemon_is_gone(self) -> None:
        self._dies_in = None
        for worker in list(self.workers.values()):
            script = worker.script
            if script is not None and self.world.chance(0.15):
                code = self.world.random.choice([0, 3])
                worker.exits(script, code, None)  # of itself, and no daemon hears it
            self.world.after(0.005, worker.lose_daemon)

    def activity(self, pid: int) -> Activity | None:
        """A process does something while it is not frozen."""
        worker = next((one for one in self.workers.values() if one.pid == pid), None)
        if worker is None:
            return None
        return Activity(0, 0.0, runnable=not worker.frozen)

    def power_is_cut(self, *, keeps_results: bool) -> None:
        self.workers.clear()
        self.scripts.clear()
        if not keeps_results:
            self.kept.clear()


class Line:
    """What passes between one daemon and its children; stands for `ipc.sockets.Server`."""

    endpoint = "ipc://simulated"

    def __init__(self, host: Host, beats: bool) -> None:
        self.processes: dict[str, Process] = {}
        self.news = News()
        self.closed = False
        self.free: set[str] = set()  # workers that said they are ready, as the daemon knows it
        self._gone: set[str] = set()  # and those that it knows to be gone
        self._host = host
        self._beats = beats
        self.newest = ""  # synchroniser
        self.mail: deque[tuple[Peer, Any]] = deque()

    def deliver(self, sender: Any, message: Any) -> None:
        if not self.closed:
            self.mail.append((Peer(sender.name.encode(), 0, 0, sender.pid), message))
            self._host.world.awake = True

    def lost(self, name: str) -> None:
        if self.processes.pop(name, None) is not None and not self.closed:
            self.news.gone.append(name)
            self._host.world.awake = True

    def forget(self, name: str) -> None:
        """The daemon has found that it is gone."""
        self.free.discard(name)
        self._gone.add(name)

    def send(self, routing_id: bytes, message: ToWorker) -> bool:
        self._host.step()
        process = self.processes.get(routing_id.decode())
        if process is None:
            return False
        if isinstance(message, Run):
            self._host.oracle.run_is_sent(message, routing_id.decode())
        if isinstance(message, Run | Release):
            self.free.discard(routing_id.decode())
        process.hear(message)
        self._host.step()
        return True

    def drain(self, messages_max: int) -> Iterator[tuple[Peer, FromWorker]]:
        for _ in range(min(messages_max, len(self.mail))):
            peer, message = self.mail.popleft()
            if isinstance(message, Ready):  # which may be read after its end was
                self.free |= {peer.routing_id.decode()} - self._gone
            if isinstance(message, Started):
                self._host.oracle.begin_is_heard(message.run_id)
            yield peer, message
        if not self._beats:
            return
        for worker in list(self._host.workers.values()):
            beat = worker.beat()
            if beat is not None:
                yield Peer(worker.name.encode(), 0, 0, worker.pid), beat


class Given:
    """Stands for the end of a synchroniser."""

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        """Nothing was opened."""


class Channel:
    """The line to the newest synchroniser; stands for `ipc.channel.Channel`."""

    ended = False

    def __init__(self, line: Line) -> None:
        self._line = line

    def open(self) -> Given:
        self.hang_up()
        return Given()

    def hang_up(self) -> None:
        self._line.newest = ""
        self._line.mail.clear()

    def send(self, message: Any) -> bool:
        return self._line.send(self._line.newest.encode(), message)

    def drain(self) -> Iterator[Any]:
        for peer, message in self._line.drain(1000):
            if peer.routing_id == self._line.newest.encode():
                yield message


class Children(Participant):
    """Stands for `supervisor.children.Children`: forks take a while, fail, or hang."""

    def __init__(
        self, host: Host, workers: Line, exchanges: Line, make: Callable[[str, int], Process]
    ) -> None:
        self._host, self._world = host, host.world
        self._workers, self._exchanges = workers, exchanges
        self._make_synchroniser = make
        self._known: dict[str, Child] = {}
        self._asked: dict[str, None] = {}

    def next_deadline(self, _now: Instant) -> float | None:
        return None

    def reap(self) -> None:
        """Nobody is reparented here."""

    def gather(self, news: News, _now: Instant) -> None:
        for line in (self._workers, self._exchanges):
            for name, pid in line.news.forked.items():
                self._known[name] = Child(name, pid, -1)
            news.forked |= line.news.forked
            news.gone += line.news.gone
            news.failed |= line.news.failed
            line.news = News()
        for name in news.gone:
            self._known.pop(name, None)
            self._workers.forget(name)
            self._host.oracle.worker_is_lost(name)

    def get(self, name: str) -> Child | None:
        return self._known.get(name)

    def activity(self, _name: str) -> None:
        """Nobody looks at a simulated process: it is judged by its silence."""

    def kill(self, name: str) -> None:
        self._host.oracle.worker_is_lost(name)
        for line in (self._workers, self._exchanges):
            if name in line.processes:
                line.processes[name].be_killed()

    def fork_worker(self, name: str, _endpoint: str, *, forks_ahead: bool) -> None:
        def make(pid: int) -> Process:
            worker = self._host.workers[name] = Worker(self._host, self._workers, name, pid)
            self._world.after(self._world.random.uniform(0.005, 0.05), lambda: ready(worker))
            return worker

        self._fork(name, self._workers, make)

    def fork_synchroniser(self, name: str, _served: int, _backend: BackendAddress) -> None:
        self._exchanges.newest = name
        self._fork(name, self._exchanges, lambda pid: self._make_synchroniser(name, pid))

    def zygote_dies(self) -> None:
        """What was asked of it and has not come yet, never will."""
        for name in self._asked:
            line = self._exchanges if name.startswith("sync") else self._workers
            line.news.failed[name] = "cannot fork"
            self._world.awake = True
        self._asked.clear()

    def _fork(self, name: str, line: Line, make: Callable[[int], Process]) -> None:
        self._host.step()
        self._asked[name] = None
        chance = self._world.random.random()
        seconds = self._world.random.uniform(4, 70) if chance < 0.01 else 0.002

        def forked() -> None:
            if line.closed or name not in self._asked:
                return
            del self._asked[name]
            self._world.awake = True
            if chance > 0.99:
                line.news.failed[name] = "cannot fork"
                return
            pid = next(self._host.pids)
            line.processes[name] = make(pid)
            line.news.forked[name] = pid

        self._world.after(seconds, forked)


class Leftovers:
    """Stands for those of `startup/sweep.py`, and for the clean-up of `runs/cleanup.py`."""

    instance = "simulated"

    def __init__(self, host: Host) -> None:
        self.alive: frozenset[str] = frozenset()
        self.cleanup = self
        self._host = host
        self._trees: dict[str, LostTree] = {}

    def sweep(self) -> None:
        """S1: everything that an earlier daemon left is ended, or found not to be."""
        host = self._host
        for worker in list(host.workers.values()):
            worker.be_swept()
        for script in list(host.scripts.values()):
            script.worker.kill(script)
        host.world.go_by(SWEEP_SECONDS_MAX if host.scripts else SWEEP_SECONDS)
        self.alive = frozenset(host.scripts)

    def end_tree(self, run_id: str, script_pid: int | None, worker: str | None) -> LostTree:
        run = LostRun(run_id, script_pid, worker or "")
        return self._trees.setdefault(run_id, LostTree(run))

    def forget_tree(self, run_id: str) -> None:
        self._trees.pop(run_id, None)

    def tree_is_gone(self, run_id: str) -> None:
        self.forget_tree(run_id)

    def gather(self, now: Instant, *, runs: bool) -> None:
        """Do a round. Sometimes the last process is seen to be gone only in the next."""
        for run_id, tree in self._trees.items():
            if tree.gone or now.monotonic_seconds < tree.round_at_monotonic:
                continue
            self._host.step()
            script = self._host.scripts.get(run_id)
            if script is not None:
                script.worker.kill(script)
            tree.looked_monotonic = tree.looked_monotonic or now.monotonic_seconds
            tree.round_at_monotonic = now.monotonic_seconds + ROUND_SECONDS
            tree.gone = run_id not in self._host.scripts and self._host.world.chance(0.8)

    def next_deadline(self, _now: Instant) -> float | None:
        rounds = [tree.round_at_monotonic for tree in self._trees.values() if not tree.gone]
        return min(rounds, default=None)

    def kept_results(self) -> dict[str, RunResult]:
        return dict(self._host.kept)

    def kept_result(self, run_id: str) -> RunResult | None:
        return self._host.kept.get(run_id)

    def keeps_result(self, run_id: str) -> bool:
        return run_id in self._host.kept

    def forget_result(self, run_id: str) -> None:
        self._host.step()
        self._host.kept.pop(run_id, None)

    def forget_run(self, run_id: str) -> None:
        self.forget_tree(run_id)
        self.forget_result(run_id)

    def remove_output(self, run_ids: Iterable[str]) -> None:
        """No script writes any here."""
