"""The zygote: a fork server for workers and the synchroniser (fact P2).

The supervisor executes it before it opens anything. The zygote imports what its children need,
has one thread, no ZeroMQ context and no database, and reaps what it forked. It decides nothing,
and leaves when the supervisor does. `zygote_client.py` runs it, as
`python -P -m geosched.workers.zygote SOCKET`.
"""

import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import msgspec
from setproctitle import setproctitle

from ..ipc.messages.zygote import (
    Forked,
    ForkFailed,
    ForkHelper,
    ForkLogRelay,
    ForkSynchroniser,
    ForkWorker,
    FromZygote,
    ToZygote,
    ZygoteReady,
)
from ..ipc.paths import Runtime
from ..ipc.wire import ProtocolError, decoded
from . import helper
from .heap import Heap
from .host import log_lines
from .host.cgroups import Containment
from .host.linux import drop_capabilities, forbid_new_privileges, raise_open_files
from .host.log_relay import DroppingHandler, relay
from .host.marks import MarkReader
from .host.privileges import drops_to
from .host.process_tree import ProcessLook, end_instance
from .host.procfs import descendants, process_table
from .host.signalling import signal_process
from .runfiles.processes import Kind, declare, forget_identity
from .runfiles.run_lock import noted_scripts
from .runs import worker
from .runs.run import World
from .runs.warm_up import WarmUp
from .sync import broker
from .sync.allowance import Allowances
from .zygote_client import Given

log = logging.getLogger("geosched.workers.zygote")

#: The settings of a backend are its longest part: paths, URLs and texts within their bounds.
REQUEST_BYTES_MAX = 64 * 1024
#: File brokers at once. One whose synchroniser is gone finishes what that asked for: it lives on
#: only in a disk that hangs.
BROKERS_MAX = 4
DESCRIPTORS_MAX = 2
#: Requests put off until the warm-up is over; more are answered before.
PUT_OFF_MAX = 64
#: Orphaned workers have at most 3 s of grace, and 5 s after the daemon nothing may be left (S17).
ORPHANED_WORKERS_SECONDS_MAX = 4.0
#: Between the ends of the supervisor's socket and of the lifeline, which a slow host may part.
LIFELINE_MILLISECONDS_MAX = 2000
#: A child that was killed and waits for a disk all the same is left to whoever reaps orphans.
KILLED_MILLISECONDS_MAX = 500
_STDERR = 2
#: Rounds of SIGKILL to what is then left of scripts.
SCRIPT_ROUNDS_MAX = 20
SCRIPT_ROUND_SECONDS = 0.02
#: Signals that a Ctrl-C or a service manager sends to all, and means for the supervisor.
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: The body of a forked child. Returns its exit status.
ChildMain: TypeAlias = Callable[[], int]

_decode: Callable[[bytes | memoryview], ToZygote] = msgspec.msgpack.Decoder(ToZygote).decode


class Zygote:
    """Serves requests of the supervisor. `world` is handed to each worker; `declared` tells that
    the zygote's identity file was written, by which the next daemon finds it."""

    def __init__(
        self, requests: socket.socket, world: World, heap: Heap, *, declared: bool
    ) -> None:
        self._requests = requests
        self._world = world
        self._heap = heap
        self._declared = declared
        self._warm_up: WarmUp | None = WarmUp(world)
        self._put_off: list[tuple[ToZygote, list[int]]] = []  # with its descriptors
        self._children: dict[int, tuple[str, int]] = {}  # pidfd -> name, pid
        self._relay_pidfds: set[int] = set()
        self._broker_pidfds: set[int] = set()
        self._allowed = Allowances.make()
        self._poll = select.poll()
        self._poll.register(requests, select.POLLIN)
        self._poll.register(world.lifeline, select.POLLIN)

    def serve(self) -> ChildMain | None:
        """Serve until the supervisor is gone, then return None. Return the body in a child."""
        self._say(ZygoteReady(self._heap.state))
        self._heap.settle()
        while True:
            readable = self._poll.poll(None if self._warm_up is None else 0)
            if not readable and (child_main := self._warm()) is not None:
                return child_main
            for descriptor, _ in readable:
                if descriptor == self._world.lifeline:
                    self._outlive_workers()
                    return None
                if descriptor != self._requests.fileno():
                    self._reap(descriptor)
                    continue
                request, descriptors = self._request()
                if not request:
                    if self._supervisor_is_gone():
                        self._outlive_workers()
                    return None
                child_main = self._take(request, descriptors)
                if child_main is not None:
                    return child_main

    def _supervisor_is_gone(self) -> bool:
        """The supervisor has ended, and not just replaced this zygote: then the lifeline ends, too,
        as soon as the socket."""
        return _ended(self._world.lifeline, LIFELINE_MILLISECONDS_MAX)

    def _outlive_workers(self) -> None:
        """Wait while orphaned workers end their scripts, then end the workers that hang (S17). The
        relay of the log outlives this process, whose last words it has yet to write."""
        for pidfd in self._relay_pidfds & self._children.keys():
            self._poll.unregister(pidfd)
            del self._children[pidfd]
        deadline_monotonic = time.monotonic() + ORPHANED_WORKERS_SECONDS_MAX
        while self._children and (left := deadline_monotonic - time.monotonic()) > 0:
            for descriptor, _ in self._poll.poll(left * 1000):
                if descriptor in self._children:
                    self._reap(descriptor)
                else:
                    self._poll.unregister(descriptor)
        for pidfd, (name, pid) in list(self._children.items()):
            self._end(name, pid)
            if _ended(pidfd):
                self._reap(pidfd)
        if self._declared:
            self._end_scripts()

    def _end_scripts(self) -> None:
        """Kill what is left of scripts: a worker that died took its script along, but nothing
        below that.

        No script of a later daemon is killed: a daemon that starts ends this zygote first,
        because its identity is on file (law 15).
        """
        noted, groups = noted_scripts(self._world.runtime).values(), self._world.containment
        scripts = [found.process for found in noted]
        with MarkReader((self._world.mark,), {found.user for found in noted}) as reader:
            for _ in range(SCRIPT_ROUNDS_MAX):
                look = ProcessLook.take(reader)
                if not end_instance(look, groups, scripts=scripts, just_lost=True):
                    return
                time.sleep(SCRIPT_ROUND_SECONDS)

    def _end(self, name: str, pid: int) -> None:
        """Kill a child and all below it."""
        log.error("%s hangs; ending it and all below it", name, extra={"event": "hung"})
        table = process_table()
        below = descendants(table, [pid])
        group = self._world.containment.group(name)
        if group is not None:
            group.kill()
        for member in (pid, *below):
            if member in table:
                signal_process(table[member], signal.SIGKILL)

    def _request(self) -> tuple[bytes, list[int]]:
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self._requests, REQUEST_BYTES_MAX, DESCRIPTORS_MAX
            )
        except ConnectionResetError:
            return b"", []  # the supervisor left with an answer of ours unread
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # CPython 3.11 drops MSG_CMSG_CLOEXEC
        return data, descriptors

    def _warm(self) -> ChildMain | None:
        """Take the next step of the warm-up, while nobody waits. After the last one, answer what
        was put off. Returns the body of a child, in the child only."""
        assert self._warm_up is not None
        try:
            if not self._warm_up.step():
                return None
        except OSError as error:
            log.warning("Cannot warm up: %s", error, extra={"event": "not-warm"})
        self._warm_up = None
        self._heap.settle()
        while self._put_off:
            child_main = self._answer(*self._put_off.pop(0))
            if child_main is not None:
                return child_main
        return None

    def _take(self, request: bytes, descriptors: list[int]) -> ChildMain | None:
        """Answer a request, or put it off. Returns the body of a child, in the child only."""
        asked = decoded([request], _decode)
        if isinstance(asked, ProtocolError):
            log.error("Refused a request: %s", asked, extra={"event": "bad-message"})
            _close(descriptors)
            return None
        if self._warm_up is not None and _can_wait(asked) and len(self._put_off) < PUT_OFF_MAX:
            self._put_off.append((asked, descriptors))
            return None
        return self._answer(asked, descriptors)

    def _answer(self, asked: ToZygote, descriptors: list[int]) -> ChildMain | None:
        child_main = self._forked(asked, descriptors)
        if child_main is None:
            _close(descriptors)
        return child_main

    def _forked(self, asked: ToZygote, descriptors: list[int]) -> ChildMain | None:
        """Fork what is asked for. Returns the body of the child, in the child only."""
        try:
            if isinstance(asked, ForkSynchroniser) and drops_to(asked.backend.user) is not None:
                return self._forked_with_broker(asked, descriptors)
            return self._forked_child(asked, descriptors)
        except OSError as error:
            self._say(ForkFailed(asked.name, f"cannot fork: {error.strerror or error}"))
            return None

    def _forked_child(self, asked: ToZygote, descriptors: list[int]) -> ChildMain | None:
        """Fork one child. Returns its body, in the child only. Raises `OSError`."""
        pid = os.fork()
        if pid == 0:
            return self._in_child(asked, descriptors)
        self._tell_forked(asked, pid)
        return None

    def _forked_with_broker(
        self, asked: ForkSynchroniser, descriptors: list[int]
    ) -> ChildMain | None:
        """Fork a synchroniser that will have no rights, and the broker of its files, which watches
        it. Returns the body, in a child only. Raises `OSError`."""
        if len(self._broker_pidfds) >= BROKERS_MAX:
            raise OSError(f"{BROKERS_MAX} earlier file brokers hang: the disk of their files does")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            pid = os.fork()
            if pid == 0:
                return self._in_child(asked, [*descriptors, ours.detach()])
            asker = self._watch(asked.name, pid)
            try:
                broker_pid = os.fork()
            except OSError as error:  # the synchroniser will find it gone
                log.error("Cannot fork a file broker: %s", error, extra={"event": "fork-failed"})
                broker_pid = -1
            if broker_pid == 0:
                asker = os.dup(asker)
                self._close_own()
                for descriptor in descriptors:
                    os.close(descriptor)
                serve = partial(broker.main, theirs.detach(), asked.backend)
                return partial(serve, asker=asker, allowed=self._allowed)
            if broker_pid > 0:
                self._broker_pidfds.add(self._watch(f"{asked.name}-broker", broker_pid))
        self._say(Forked(asked.name, pid), asker)
        return None

    def _close_own(self) -> None:
        """Close what belongs to the zygote, in a child."""
        self._requests.close()
        for _, descriptors in self._put_off:
            _close(descriptors)
        for pidfd in self._children:
            os.close(pidfd)

    def _in_child(self, asked: ToZygote, descriptors: list[int]) -> ChildMain:
        """Close what belongs to the zygote. Returns the body of the child."""
        self._close_own()
        self._allowed.close()
        match asked:
            case ForkWorker(name, endpoint, forks_ahead):
                return partial(worker.main, name, endpoint, self._world, forks_ahead=forks_ahead)
            case ForkSynchroniser():
                return partial(_synchronise, asked, self._world, *descriptors)
            case ForkLogRelay():
                return partial(_relay_log, descriptors, self._world.lifeline)
            case ForkHelper():
                world = self._world
                return partial(
                    helper.main, descriptors[0], world.mark, world.containment, world.runtime
                )

    def _tell_forked(self, asked: ToZygote, pid: int) -> None:
        pidfd = self._watch(asked.name, pid)
        if isinstance(asked, ForkLogRelay):
            self._relay_pidfds.add(pidfd)
        self._say(Forked(asked.name, pid), pidfd)

    def _watch(self, name: str, pid: int) -> int:
        """Watch for the end of a child; return its pidfd."""
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = (name, pid)
        self._poll.register(pidfd, select.POLLIN)
        return pidfd

    def _reap(self, pidfd: int) -> None:
        name, pid = self._children.pop(pidfd)
        self._relay_pidfds.discard(pidfd)
        self._broker_pidfds.discard(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        os.waitpid(pid, 0)
        # A worker that was killed could not do this itself.
        forget_identity(self._world.runtime, pid)
        if (group := self._world.containment.group(name)) is not None:
            group.remove()

    def _say(self, message: FromZygote, *descriptors: int) -> None:
        try:
            socket.send_fds(self._requests, [msgspec.msgpack.encode(message)], descriptors)
        except (BrokenPipeError, ConnectionResetError) as error:
            log.debug("Cannot answer, the supervisor is gone: %s", error)


def _synchronise(
    asked: ForkSynchroniser, world: World, served: int, broker_fd: int | None = None
) -> int:
    """Be a synchroniser, with a broker of its files one without rights. What it declares the
    zygote forgets, for it may not."""
    declare(world.runtime, Kind.SYNCHRONISER, asked.name)
    # Not earlier: what it imports is large, and no worker needs it.
    from .sync.synchroniser import main as synchronise

    synchronise(served, world.lifeline, backend=asked.backend, broker_fd=broker_fd)
    return 0


def _relay_log(descriptors: list[int], lifeline: int) -> int:
    setproctitle("geosched: log")
    try:  # it has to be able to write what it was given, and nothing else
        drop_capabilities()
        forbid_new_privileges()
    except OSError as error:
        log.warning("The process of the log keeps its rights: %s", error)
    source, target = descriptors
    # Else it would hold the log open itself, and never see that nobody else does.
    os.dup2(target, _STDERR)
    relay(source, target, gone=partial(_ended, lifeline, milliseconds_max=0))
    return 0


def _can_wait(asked: ToZygote) -> bool:
    """Nobody waits for this child: a relay, for which the log's socket keeps the records, or a
    spare worker. Forked before the warm-up, it would keep a copy of what that writes."""
    return isinstance(asked, ForkLogRelay) or (
        isinstance(asked, ForkWorker) and not asked.forks_ahead
    )


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _ended(descriptor: int, milliseconds_max: int = KILLED_MILLISECONDS_MAX) -> bool:
    """The process of a pidfd, or the writing end of a pipe, is gone."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(milliseconds_max))


def main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    options = msgspec.json.decode(requests.recv(REQUEST_BYTES_MAX), type=Given)
    log_lines.set_up(options.log_level, options.log_style, DroppingHandler(_STDERR))
    log_lines.log_uncaught()
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    _close_all_but(requests.fileno(), options.lifeline)
    os.chdir("/")
    runtime = Runtime(Path(options.runtime_dir))
    declared = declare(runtime, Kind.ZYGOTE, "zygote")
    hard = raise_open_files()[1]
    world = World(
        runtime=runtime,
        mark=options.mark,
        containment=Containment.detect(options.instance),
        lifeline=options.lifeline,
        open_files=(options.open_files, hard) if options.open_files else None,
    )
    setproctitle("geosched: zygote")
    heap = Heap(wanted=options.immortal_heap)
    child_main = Zygote(requests, world, heap, declared=declared).serve()
    status = 0
    if child_main is None:
        forget_identity(runtime, os.getpid())
    else:
        status = child_main()
    # Without cleaning up: nothing is left to clean, and what is immortal cannot be freed. (An
    # error leaves main with its trace.)
    os._exit(status)


def _close_all_but(*kept: int) -> None:
    """Close all other descriptors: any that the supervisor had not marked close-on-exec."""
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


if __name__ == "__main__":
    main()
