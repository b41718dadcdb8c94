"""The warm-up of a zygote: what every worker does is done once before it is forked.

Code that runs for the first time writes to its own pages: the interpreter specialises it, and
keeps what it looked up. A worker would get a copy of each. So each part of its life that touches
nothing but a directory of the zygote's own is lived here first. What is left out has a context or
a thread (law Z1).
"""

import contextlib
import logging
import os
import select
import shutil
import signal
import socket
import threading
import time
from pathlib import Path

import msgspec
from msgspec.structs import replace

from ...ipc import zmtp
from ...ipc.dealer import Dealer
from ...ipc.messages.runs import (
    Ack,
    EndCause,
    Ended,
    FromWorker,
    Heartbeat,
    Ready,
    Release,
    Run,
    RunResult,
    Started,
    Stop,
    StopReason,
    ToWorker,
)
from ...ipc.paths import Runtime
from ..host import procfs
from ..host.cgroups import Containment
from ..host.lookup import find_program
from ..runfiles import results
from ..runfiles.processes import Kind, forget_identity, make_directories, write_identity
from ..runfiles.run_lock import release_run_lock, take_run_lock
from . import worker
from .launch import CannotStartError
from .run import ActiveRun, World
from .watchdog import Watchdog

log = logging.getLogger(__name__)

#: The interpreter specialises code that was run a few times.
ROUNDS = 4
#: Ends at once, and says nothing.
PROGRAM = "true"
RUN_SECONDS_MAX = 1.0
LOOK_SECONDS_MAX = 0.1
#: Short: with the number of a process the socket for its notices has to fit (fact Z2).
_DIRECTORY = "w"
_SOCKET = "s"
_MARK = "warm-up"
_RUN_ID = "0" * 32


class WarmUp:
    """All of it, a few milliseconds at a time: between two steps a fork that somebody waits for can
    be served. A child that is forked meanwhile drops it, and nothing happens."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._runtime = Runtime(world.runtime.dir / _DIRECTORY)
        self._rest = [self._begin, *(_run, _fork, _messages, _files, _processes) * ROUNDS]

    def step(self) -> bool:
        """Take the next step. True after the last one: nothing is left of them. Raises `OSError`,
        and nothing is left either."""
        over = True
        try:
            self._rest.pop(0)(self._runtime, self._world)
            over = not self._rest
        finally:
            if over:
                shutil.rmtree(self._runtime.dir, ignore_errors=True)
        return over

    def _begin(self, runtime: Runtime, _world: World) -> None:
        shutil.rmtree(runtime.dir, ignore_errors=True)  # of a zygote that was killed
        runtime.dir.mkdir(mode=0o700)
        make_directories(runtime)


def _fork(_runtime: Runtime, _world: World) -> None:
    """Do what Python does in each child, for the most part; with other threads it would end them.
    By name, for there is no other way to it, and it can be done without."""
    if threading.active_count() > 1:
        return
    for module, name in (
        (threading, "_after_fork"),
        (logging, "_after_at_fork_child_reinit_locks"),
    ):
        after_fork = getattr(module, name, None)
        if after_fork is not None:
            after_fork()


def _messages(runtime: Runtime, _world: World) -> None:
    """Speak with a supervisor as a worker does, for which a listener of the zygote's own stands
    in: what it says waits in the connection."""
    poll = select.poll()
    path = os.fspath(runtime.dir / _SOCKET)
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.socket(socket.AF_UNIX))
        opened.callback(os.unlink, path)
        listener.bind(path)
        listener.listen()
        connection: Dealer[ToWorker, FromWorker] = Dealer(
            path, poll, decode=worker.decode, name="warm-up"
        )
        opened.callback(connection.close)
        peer = opened.enter_context(listener.accept()[0])
        orders: tuple[ToWorker, ...] = (
            _order(Path("/")),
            Stop(_RUN_ID, StopReason.WINDOW_OVER),
            Ack(_RUN_ID),
            Release(),
        )
        encode = msgspec.msgpack.Encoder().encode
        peer.sendall(zmtp.OPENING_OF_ROUTER + b"".join(zmtp.frame(encode(each)) for each in orders))
        while connection.receive() is not None:
            poll.poll(0)
        connection.next_deadline()
        answers: tuple[FromWorker, ...] = (
            Ready(),
            Started(_RUN_ID, os.getpid(), 0),
            Heartbeat(_RUN_ID),
            Ended(_result()),
        )
        for answer in answers:
            connection.send(answer)


def _files(runtime: Runtime, _world: World) -> None:
    write_identity(runtime, Kind.WORKER, "worker-1")
    lock = take_run_lock(runtime, _RUN_ID)
    results.keep(runtime, _result())
    results.remove(runtime, _RUN_ID)
    release_run_lock(runtime, _RUN_ID, lock)
    forget_identity(runtime, os.getpid())


def _processes(_runtime: Runtime, world: World) -> None:
    procfs.stat(os.getpid())
    procfs.below(os.getpid())
    group = world.containment.group(_RUN_ID)
    if group is not None:
        group.pids()
    watchdog = Watchdog(1.0, time.monotonic())
    watchdog.turn(time.monotonic())
    watchdog.next_deadline()


def _run(runtime: Runtime, world: World) -> None:
    """Carry out a run. Only while this process has no children: a run ends all that is below its
    worker, and reaps what has ended."""
    if procfs.children(os.getpid()):
        return
    order = _order(runtime.dir)
    if find_program(PROGRAM, order.environment) is None:
        return
    own = replace(world, runtime=runtime, mark=_MARK, containment=Containment("tree"))
    poller = select.poll()
    interrupted = signal.getsignal(signal.SIGALRM)
    lock = take_run_lock(runtime, _RUN_ID)
    try:
        run = ActiveRun(order, own, poller, lock=lock)
        _take_turns(run, poller)
    except CannotStartError as error:
        log.debug("No run to warm up with: %s", error)  # a worker that cannot, either, says so
    finally:
        release_run_lock(runtime, _RUN_ID, lock)
        forget_identity(runtime, os.getpid())
        signal.signal(signal.SIGALRM, interrupted)


def _take_turns(run: ActiveRun, poller: select.poll) -> None:
    """Take the turns of a worker until the run is over; one that takes too long is stopped."""
    begun_monotonic = now = time.monotonic()
    stopped = False
    while run.turn(now) is None:
        if now - begun_monotonic > RUN_SECONDS_MAX and not stopped:
            run.stop(StopReason.OPERATOR, now)
            stopped = True
        run.heartbeat()
        due = run.next_deadline(now)
        wait_seconds = LOOK_SECONDS_MAX if due is None else min(due - now, LOOK_SECONDS_MAX)
        poller.poll(max(0.0, wait_seconds) * 1000)
        now = time.monotonic()


def _order(directory: Path) -> Run:
    return Run(
        run_id=_RUN_ID,
        title="geosched: worker",
        command=(PROGRAM,),
        environment={"PATH": os.defpath},
        input=b"{}",
        stop_signal=15,
        stop_grace_seconds=1.0,
        watchdog_seconds=0.0,
        heartbeat_seconds=5.0,
        output_path=os.fspath(directory / "output"),
        output_bytes_max=1024,
    )


def _result() -> RunResult:
    return RunResult(_RUN_ID, EndCause.EXITED, 0, exit_code=0)
