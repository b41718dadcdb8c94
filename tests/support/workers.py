"""The supervisor's side of workers, for tests: a real zygote, and a server that hears them."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from geosched.ipc.messages.runs import (
    Ack,
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
from geosched.ipc.messages.zygote import Forked, ForkWorker, FromZygote, ZygoteReady
from geosched.ipc.paths import Runtime
from geosched.ipc.sockets import Server, new_context
from geosched.ipc.wire import ProtocolError
from geosched.workers.host import process_tree, procfs
from geosched.workers.host.cgroups import Containment
from geosched.workers.host.marks import MarkReader
from geosched.workers.runfiles.processes import make_directories
from geosched.workers.zygote_client import Given, ZygoteClient

from .wait import wait_for


def end_marked(mark: str, containment: Containment) -> set[int]:
    """A round of SIGKILL to all that carries a mark, or is in a group; what of it was alive."""
    with MarkReader((mark,)) as reader:
        return process_tree.end_instance(process_tree.ProcessLook.take(reader), containment)


class Host:
    """A zygote, its workers, and what they said. Ends all that it began."""

    def __init__(self, *, immortal_heap: bool = True) -> None:
        self._immortal_heap = immortal_heap
        self.dir = Path(tempfile.mkdtemp(prefix="gs-"))
        self.runtime = Runtime(self.dir)
        make_directories(self.runtime)
        self.instance = f"test-{self.dir.name}-{os.getpid()}"
        self.context = new_context()
        self.server: Server[FromWorker, ToWorker] = Server(
            self.context, self.runtime.worker_socket, receives=FromWorker
        )
        self.lifeline, self._held = os.pipe2(os.O_CLOEXEC)
        self.zygote = self.start_zygote()
        self.forked: dict[str, tuple[Forked, int]] = {}
        self.from_zygote: list[FromZygote] = []
        self.heard: list[tuple[str, FromWorker]] = []
        self.refused: list[ProtocolError] = []
        self.runs = 0

    def start_zygote(self) -> ZygoteClient:
        given = Given(
            lifeline=self.lifeline,
            runtime_dir=str(self.dir),
            instance=self.instance,
            mark=self.instance,
            immortal_heap=self._immortal_heap,
        )
        return ZygoteClient(given)

    # --- hearing ------------------------------------------------------------------------

    def hear(self) -> None:
        with suppress(EOFError):
            for message, pidfd in self.zygote.receive():
                self.from_zygote.append(message)
                if isinstance(message, Forked):
                    assert pidfd is not None
                    self.forked[message.name] = (message, pidfd)
        for peer, heard in self.server.drain(1000):
            if isinstance(heard, ProtocolError):
                self.refused.append(heard)
            else:
                self.heard.append((peer.routing_id.decode(), heard))

    def wait(self, condition: Callable[[], Any], *, seconds: float = 10.0, what: str = "") -> Any:
        def heard() -> Any:
            self.hear()
            return condition()

        return wait_for(heard, seconds=seconds, what=what)

    def said(self, name: str, kind: type[Any]) -> list[Any]:
        return [message for who, message in self.heard if who == name and isinstance(message, kind)]

    def wait_said(self, name: str, kind: type[Any], *, seconds: float = 10.0) -> Any:
        return self.wait(
            lambda: self.said(name, kind), seconds=seconds, what=f"{kind.__name__} of {name}"
        )[-1]

    # --- doing --------------------------------------------------------------------------

    def zygote_ready(self) -> None:
        self.wait(lambda: any(isinstance(m, ZygoteReady) for m in self.from_zygote))

    def worker(self, name: str = "worker-1", *, forks_ahead: bool = False) -> str:
        assert self.zygote.ask(ForkWorker(name, self.server.endpoint, forks_ahead))
        self.wait_said(name, Ready)
        self.wait(lambda: name in self.forked)
        return name

    def send(self, name: str, message: ToWorker) -> None:
        assert self.server.send(name.encode(), message)

    def script(self, body: str, *, interpreter: str = "/bin/sh", mode: int = 0o755) -> str:
        path = self.dir / f"script-{len(list(self.dir.glob('script-*')))}"
        path.write_text(f"#!{interpreter}\n{body}\n")
        path.chmod(mode)
        return str(path)

    def order(self, command: str | tuple[str, ...], **changes: Any) -> Run:
        self.runs += 1
        run_id = changes.pop("run_id", f"run-{self.runs}")
        environment = {
            "PATH": os.environ["PATH"],
            "GEOSCHED_INSTANCE": self.instance,
            "GEOSCHED_RUN_ID": run_id,
            "HERE": str(self.dir),
        } | changes.pop("environment", {})
        settings: dict[str, Any] = {
            "run_id": run_id,
            "title": f"geosched: {run_id}",
            "command": (command,) if isinstance(command, str) else command,
            "environment": environment,
            "input": b'{"id":"a"}\n',
            "stop_signal": int(signal.SIGTERM),
            "stop_grace_seconds": 5.0,
            "watchdog_seconds": 0.0,
            "heartbeat_seconds": 0.2,
            "output_path": str(self.dir / f"{run_id}.log"),
            "output_bytes_max": 64 * 1024,
        }
        return Run(**(settings | changes))

    def run(self, name: str, order: Run) -> Started:
        """Give a worker a run and wait for its script."""
        self.send(name, order)
        started: Started = self.wait_said(name, Started)
        return started

    def result(self, name: str, *, seconds: float = 10.0) -> RunResult:
        ended: Ended = self.wait_said(name, Ended, seconds=seconds)
        return ended.result

    def outcome(self, order: Run, *, seconds: float = 10.0) -> RunResult:
        """A whole run in a new worker, acknowledged."""
        name = self.worker(f"worker-{order.run_id}")
        self.send(name, order)
        result = self.result(name, seconds=seconds)
        self.send(name, Ack(order.run_id))
        wait_for(lambda: self.is_reaped(name), what="the worker leaves")
        return result

    def output(self, order: Run) -> str:
        return Path(order.output_path).read_text(errors="replace")

    def stop(self, name: str, order: Run, reason: StopReason = StopReason.OPERATOR) -> None:
        self.send(name, Stop(order.run_id, reason))

    def is_reaped(self, name: str) -> bool:
        return procfs.stat(self.forked[name][0].pid) is None

    def release(self, name: str) -> None:
        self.send(name, Release())

    def heartbeat(self, name: str, condition: Callable[[Heartbeat], Any]) -> Heartbeat:
        """The first heartbeat that is so."""
        found: Heartbeat = self.wait(
            lambda: next((beat for beat in self.said(name, Heartbeat) if condition(beat)), None)
        )
        return found

    def members(self, order: Run) -> set[int]:
        """Living processes of a run, wherever they went."""
        return set(process_tree.RunTree(self.instance, order.run_id).members())

    # --- ending -------------------------------------------------------------------------

    def cut_lifeline(self) -> None:
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def close(self) -> None:
        self.cut_lifeline()
        self.zygote.kill()
        os.waitpid(self.zygote.pid, 0)
        self.zygote.close()
        for _, pidfd in self.forked.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        containment = Containment.detect(self.instance)
        deadline = time.monotonic() + 5
        while end_marked(self.instance, containment) and time.monotonic() < deadline:
            time.sleep(0.02)
        containment.remove()
        os.close(self.lifeline)
        self.server.close()
        self.context.term()
        shutil.rmtree(self.dir)


@contextmanager
def host(*, immortal_heap: bool = True) -> Iterator[Host]:
    opened = Host(immortal_heap=immortal_heap)
    try:
        opened.zygote_ready()
        yield opened
    finally:
        opened.close()
