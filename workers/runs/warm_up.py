"""The warm-up of a zygote: what every worker does is done once before it is forked.

Code that runs for the first time writes to its own pages: the interpreter specialises it, and
keeps what it looked up. A worker would get a copy of each. So each part of its life that touches
nothing but a directory of the zygote's own is lived here first. What is left out has a context or
a thread (law Z1), or would end processes below it, which here are everybody's workers.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

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
from ...ipc.sockets import decoded
from ..host import procfs
from ..host.lookup import find_program
from ..runfiles import results
from ..runfiles.processes import Kind, forget_identity, make_directories, write_identity
from ..runfiles.run_lock import release_run_lock, take_run_lock
from .launch import CannotStartError, credentials_of, start
from .run import World
from .watchdog import Watchdog

#: The interpreter specialises code that was run a few times.
ROUNDS = 4
#: Ends at once, and says nothing.
PROGRAM = "true"
ENDS_SECONDS_MAX = 2.0
LOOK_SECONDS = 0.001
_DIRECTORY = "warm-up"
_RUN_ID = "0" * 32


class WarmUp:
    """All of it, a few milliseconds at a time: between two steps a fork that somebody waits for can
    be served. A child that is forked meanwhile drops it, and nothing happens."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._runtime = Runtime(world.runtime.dir / _DIRECTORY)
        self._rest = [self._begin, *(_messages, _files, _processes, _script) * ROUNDS]

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


def _messages(_runtime: Runtime, _world: World) -> None:
    decode: Callable[[bytes | memoryview], ToWorker] = msgspec.msgpack.Decoder(ToWorker).decode
    encode = msgspec.msgpack.Encoder().encode
    orders: tuple[ToWorker, ...] = (
        _order(Path("/")),
        Stop(_RUN_ID, StopReason.WINDOW_OVER),
        Ack(_RUN_ID),
        Release(),
    )
    for order in orders:
        decoded([encode(order)], decode)
    answers: tuple[FromWorker, ...] = (
        Ready(),
        Started(_RUN_ID, os.getpid(), 0),
        Heartbeat(_RUN_ID),
        Ended(_result()),
    )
    for answer in answers:
        encode(answer)


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


def _script(runtime: Runtime, world: World) -> None:
    """Start a program and take its end, as a worker does."""
    order = _order(runtime.dir)
    if find_program(PROGRAM, order.environment) is None:
        return
    lock = take_run_lock(runtime, _RUN_ID)
    try:
        script = start(order, credentials_of(order), open_files=world.open_files, lock=lock)
    except CannotStartError:
        return  # a worker will say why
    finally:
        release_run_lock(runtime, _RUN_ID, lock)
    deadline_monotonic = time.monotonic() + ENDS_SECONDS_MAX
    while script.ended() is None and time.monotonic() < deadline_monotonic:
        time.sleep(LOOK_SECONDS)
    os.kill(script.pid, 9)
    script.forget()


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
