"""Follows a plan against the real daemon, and gathers the evidence that the checker judges."""

import signal
import subprocess
import time
from typing import Any

from geosched.supervisor.startup.mark import instance_of
from support.backend import BackendServer
from support.daemon import Daemon, commands, entry, instant
from support.wait import wait_for

from . import host
from .checker import Begun, Changed, Doubled, Ended, History, Left, Reported, Seen, Struck
from .figures import Figures
from .host import Processes, now
from .plan import Add, BackendFault, Edit, Halt, Kill, Stall, Step, StopAction, Withdraw
from .scripts import BACKGROUND, Journal, expectation, settings

BACKGROUND_RUNS = 20
STEP_SECONDS = 0.2
LOOK_SECONDS = 1.0
#: Entries whose window is over for so long are no longer sent.
SENT_AFTER_END_SECONDS = 10.0
#: A supervisor that young is still warming up: what it takes up is not looked at.
WARM_SECONDS = 3.0
RECOVERY_SECONDS_MAX = 30.0


class Soak:
    def __init__(self, daemon: Daemon, backend: BackendServer, seed: int) -> None:
        self.history = History()
        self.figures = Figures(seed)
        self._daemon = daemon
        self._backend = backend
        self._entries: dict[str, tuple[dict[str, Any], float]] = {}
        self._journal = Journal(daemon.journal)
        self._number = 0
        self._continue: list[tuple[float, list[int]]] = []
        self._heal_at: float | None = None
        self._asking: list[subprocess.Popen[bytes]] = []
        self._blind_until = 0.0  # somebody is halted: an orphan may have to wait for that
        self._unclaimed: dict[int, float] = {}
        self._look_at = 0.0
        self._started_at = now()

    # --- before and after ---------------------------------------------------------------

    def begin(self) -> None:
        (self._daemon.root / "locks").mkdir()
        self._daemon.configure(
            scripts=settings(self._daemon),
            backend={
                "kind": "http",
                "url": self._backend.url,
                "poll_interval": "300ms",
                "timeout": "2s",
            },
            max_running=200,
        )
        self._instance = instance_of(self._daemon.root / "state")
        for number in range(BACKGROUND_RUNS):
            self._send(f"bg-{number}", BACKGROUND, -1.0, 7200.0)
        self._daemon.start()
        self._await_background(0.0)

    def finish(self) -> None:
        """Let everything come to its end, then stop in order."""
        self._continue_halted(now() + 3600)
        self._heal()
        for number in range(BACKGROUND_RUNS):
            self._change(f"bg-{number}")
            del self._entries[f"bg-{number}"]
        self._publish()
        self._ctl("sync", "--no-wait")
        wait_for(self._all_over, seconds=60, what=f"all to be over: {self._daemon.log_text()}")
        final = wait_for(lambda: host.statuses(self._daemon), seconds=20)
        self.history.final = {action: status for action, (status, _) in final.items()}
        # Not the size of its file: that has been given all of its map at once.
        self.figures.store_bytes = self._daemon.json("status")["store"]["usedBytes"]
        assert self._daemon.terminate() == 0, self._daemon.log_text()
        for process in self._asking:
            process.wait(60)
        self._read_journal()
        self.history.reported = [
            Reported(one["key"], one["id"], one["executionStatus"]) for one in self._backend.reports
        ]
        wait_for(
            lambda: not host.left_over(self._daemon, self._instance),
            seconds=5,
            what=f"nothing left in /proc: {host.left_over(self._daemon, self._instance)}",
        )

    def _all_over(self) -> bool:
        self._look()
        open_ones = host.statuses(self._daemon, "NULL", "STARTED")
        return open_ones == {} and host.outbox_depth(self._daemon) == 0

    # --- one step -----------------------------------------------------------------------

    def take(self, step: Step) -> None:
        deadline = time.monotonic() + STEP_SECONDS
        self.figures.steps += 1
        match step:
            case Add(kind, start, length):
                self._add(kind, start, length)
            case Withdraw(pick):
                self._withdraw(pick)
            case Edit(pick, longer):
                self._edit(pick, longer=longer)
            case StopAction(pick):
                self._stop_action(pick)
            case Kill(target, pick):
                self._kill(target, pick)
            case Halt(target, pick, seconds):
                self._halt(target, pick, seconds)
            case Stall(seconds):
                self._stall(seconds)
            case BackendFault(name, seconds):
                self._break_backend(name, seconds)
        self._meanwhile()
        # The pace of the plan, and no wait for anything: a step takes so long at least.
        time.sleep(max(0.0, deadline - time.monotonic()))

    def _meanwhile(self) -> None:
        at = now()
        self._continue_halted(at)
        if self._heal_at is not None and at >= self._heal_at:
            self._heal()
        self._read_journal()
        if at >= self._look_at:
            self._look()
            self._look_at = at + LOOK_SECONDS

    # --- what the backend holds ---------------------------------------------------------

    def _add(self, kind: str, start: float, length: float) -> None:
        self._number += 1
        self._send(f"{kind}-{self._number}", kind, start, start + length)

    def _send(self, action_id: str, kind: str, start: float, end: float) -> None:
        self.history.actions[action_id] = expectation(action_id, kind, now() + end)
        self.figures.actions += 1
        self._entries[action_id] = (entry(action_id, start, end, type=kind), now() + end)
        self._publish()

    def _publish(self) -> None:
        old = now() - SENT_AFTER_END_SECONDS
        self._entries = {key: held for key, held in self._entries.items() if held[1] > old}
        self._backend.set_actions([sent for sent, _ in self._entries.values()])

    def _picked(self, pick: float) -> str | None:
        short = [action_id for action_id in self._entries if not action_id.startswith("bg-")]
        return short[int(pick * len(short))] if short else None

    def _change(self, action_id: str) -> None:
        self.history.changed.append(Changed(now(), action_id))

    def _withdraw(self, pick: float) -> None:
        if action_id := self._picked(pick):
            self._change(action_id)
            del self._entries[action_id]
            self._publish()

    def _edit(self, pick: float, *, longer: bool) -> None:
        if action_id := self._picked(pick):
            self._change(action_id)
            sent, end = self._entries[action_id]
            if longer:
                sent, end = sent | {"toDate": instant(end + 2.0 - now())}, end + 2.0
            else:
                sent = sent | {"appNames": [f"app-{pick}"]}
            self._entries[action_id] = (sent, end)
            self._publish()

    def _stop_action(self, pick: float) -> None:
        if action_id := self._picked(pick):
            self._change(action_id)
            self._ctl("stop", action_id)

    def _ctl(self, *arguments: str) -> None:
        """Asked beside the soak, which waits for nobody."""
        self._asking = [process for process in self._asking if process.poll() is None]
        self._asking.append(
            subprocess.Popen(
                [commands() / "geosched-ctl", "--config", self._daemon.config, *arguments],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    def _break_backend(self, name: str, seconds: float) -> None:
        self._heal()
        if name == "down":
            self._backend.stop()
        else:
            self._backend.fault = name
        self._heal_at = now() + seconds

    def _heal(self) -> None:
        if self._heal_at is None:
            return
        if not self._backend.fault:
            self._backend.start()
        self._backend.fault = ""
        self._heal_at = None
        self._ctl("sync", "--no-wait")  # a poll that backs off would outlast the soak

    # --- blows --------------------------------------------------------------------------

    def _kill(self, target: str, pick: float) -> None:
        processes = Processes(self._daemon)
        if target == "everybody":
            victims = processes.everybody()
        elif "+" in target:
            victims = [pid for kind in target.split("+") for pid in processes.of(kind)[:1]]
        else:
            found = processes.of(target)
            victims = [found[int(pick * len(found))]] if found else []
        if not victims:
            return
        runs = frozenset[str]().union(*(processes.runs_below(pid) for pid in victims))
        actions = frozenset(filter(None, map(processes.action_of, victims)))
        at = now()
        for pid in victims:
            host.send(pid, signal.SIGKILL)
        self.history.struck.append(Struck(at, target, runs, actions))
        self.figures.kills[target] += 1
        self.figures.hits[target] += bool(runs)
        if processes.supervisor in victims:
            self._start_again(at, alone=target == "supervisor")

    def _start_again(self, killed_at: float, *, alone: bool) -> None:
        """As a service manager would; the time counts until all that should run does."""
        assert self._daemon.process is not None
        self._daemon.process.wait(20)
        self._continue_halted(now() + 3600)
        self._daemon.start(wait=False)
        self._started_at = now()
        self._await_background(killed_at)
        if alone:
            again = [b for b in reversed(self.history.begun) if b.at > killed_at and _background(b)]
            first = {begun.action: begun.at for begun in again}
            self.figures.recoveries.append(max(first.values()) - killed_at)

    def _await_background(self, since: float) -> None:
        """Until each background action has begun after an instant."""

        def all_begun() -> bool:
            self._read_journal()
            begun = {b.action for b in self.history.begun if b.at > since and _background(b)}
            return len(begun) == BACKGROUND_RUNS

        wait_for(
            all_begun,
            seconds=RECOVERY_SECONDS_MAX,
            what=f"all background runs to live again: {self._daemon.log_text()}",
        )

    def _halt(self, target: str, pick: float, seconds: float | None) -> None:
        processes = Processes(self._daemon)
        found = processes.of(target)
        if not found:
            return
        victim = found[int(pick * len(found))]
        runs = processes.runs_below(victim)
        actions = frozenset(filter(None, [processes.action_of(victim)]))
        self._halted(host.stop_all([victim]), seconds)
        self.history.struck.append(Struck(now(), target, runs, actions))
        self.figures.halts[target] += 1

    def _stall(self, seconds: float) -> None:
        self._halted(host.stop_all(Processes(self._daemon).everybody()), seconds)
        self.figures.halts["stall"] += 1

    def _halted(self, pids: list[int], seconds: float | None) -> None:
        if seconds is None:
            return  # whoever needs them has to find out
        self._continue.append((now() + seconds, pids))
        self._blind_until = max(self._blind_until, now() + seconds + LOOK_SECONDS)

    def _continue_halted(self, until: float) -> None:
        for at, pids in list(self._continue):
            if at <= until:
                self._continue.remove((at, pids))
                for pid in pids:
                    host.send(pid, signal.SIGCONT)

    # --- evidence -----------------------------------------------------------------------

    def _read_journal(self) -> None:
        for line in self._journal.new():
            match line:
                case Begun():
                    self.history.begun.append(line)
                case Ended():
                    self.history.ended.append(line)
                case Doubled():
                    self.history.doubled.append(line)

    def _look(self) -> None:
        if now() < self._blind_until:
            self._unclaimed.clear()
            return
        processes = Processes(self._daemon)
        marked = processes.marked(self._instance)
        shown = host.statuses(self._daemon)
        if shown is None:
            return
        at = now()
        seen = [Seen(at, action, status) for action, (status, _) in shown.items()]
        known = {one.action: one.status for one in self.history.seen}
        self.history.seen += [one for one in seen if known.get(one.action) != one.status]
        open_runs = {run for _, run in shown.values() if run is not None}
        self._notice_orphans({p: r for p, r in marked.items() if r not in open_runs}, at)
        if at - self._started_at > WARM_SECONDS:
            self.figures.resources.append(processes.resources())

    def _notice_orphans(self, unclaimed: dict[int, str], at: float) -> None:
        self._unclaimed = {pid: self._unclaimed.get(pid, at) for pid in unclaimed}
        for pid, since in self._unclaimed.items():
            if at > since:
                self.history.left.append(Left(pid, unclaimed[pid], at - since))


def _background(begun: Begun) -> bool:
    return begun.action.startswith("bg-")
