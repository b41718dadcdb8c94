"""What fails a run of the tests besides a test that fails.

pytest reports what a test does. What is found afterwards, when a worker of xdist ends its session
or its interpreter, has no report, and xdist drops it: the run was 0 with a leak in it. So each
worker writes it to a file that the first process reads, and the exit code of a worker counts.
"""

import functools
import os
import shutil
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

#: Without these pytest finds less, and says nothing of it.
NEEDED_PLUGINS = ("warnings", "unraisableexception", "threadexception", "timeout")


def guarded(config: pytest.Config) -> Generator[None, Any, Any]:
    """Wrap `pytest_cmdline_main`: all of a process's run, its cleaning up included."""
    for name in NEEDED_PLUGINS:
        if not config.pluginmanager.has_plugin(name):
            raise pytest.UsageError(f"these tests need the plugin {name}: leave out -p no:{name}")
    found_by = getattr(config, "workerinput", {}).get("found")
    if found_by is not None:
        return (yield from _in_worker(Path(found_by)))
    gate = Gate()
    config.pluginmanager.register(gate)
    _at_the_very_end(_leave_with_1)
    code = yield
    _have_leaks_told()
    faults = [*gate.faults()]
    for fault in faults:
        print(f"FAILED the run: {fault}", file=sys.stderr)
    return code or (pytest.ExitCode.TESTS_FAILED if faults else code)


def _in_worker(found: Path) -> Generator[None, Any, Any]:
    descriptor = os.open(found, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    write = functools.partial(os.write, descriptor)  # what the last moments of Python still have
    _at_the_very_end(lambda fault: write(f"{fault}\n".encode()))
    try:
        return (yield)
    except BaseException as error:
        for each in _leaves(error):
            what = (str(each) or type(each).__name__).splitlines()[0]
            write(f"{what} ({each.__cause__ or type(each).__name__})\n".encode())
        raise
    finally:
        _have_leaks_told()


class Gate:
    """What the process that was started learns of its workers."""

    def __init__(self) -> None:
        self._faults: list[str] = []
        self._nodes: list[Any] = []
        self._directory: Path | None = None

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="gate-"))
        node.workerinput["found"] = str(self._directory / node.gateway.id)
        self._nodes.append(node)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        if error:
            self._faults.append(f"xdist worker {node.gateway.id} ended too early: {error}")

    def pytest_warning_recorded(self, warning_message: Any, nodeid: str) -> None:
        where = nodeid or "no test"
        self._faults.append(f"a warning that is no error, in {where}: {warning_message.message}")

    def faults(self) -> Iterator[str]:
        """Yield what has to fail the run. To be called once, when all workers have ended."""
        yield from self._faults
        for node in self._nodes:
            code = node.gateway._io.popen.returncode
            if code != 0:
                yield f"xdist worker {node.gateway.id} left with {code}"
            found = Path(node.workerinput["found"])
            if found.exists():
                for line in found.read_text(errors="replace").splitlines():
                    yield f"at the end of xdist worker {node.gateway.id}: {line}"
        if self._directory is not None:
            shutil.rmtree(self._directory)


def _at_the_very_end(tell: Callable[[str], object]) -> None:
    """Have told what is found when pytest no longer listens, up to the last object that Python
    destroys: it puts back the hooks that it found."""
    unraisable, thread = sys.unraisablehook, threading.excepthook

    def of_object(found: Any) -> None:
        unraisable(found)
        tell(f"{found.err_msg or 'Exception ignored in'}: {found.object!r} ({found.exc_value!r})")

    def of_thread(found: Any) -> None:
        thread(found)
        tell(f"Exception in thread {found.thread and found.thread.name} ({found.exc_value!r})")

    sys.unraisablehook, threading.excepthook = of_object, of_thread


def _have_leaks_told() -> None:
    """pytest took its filters with it; without one Python says nothing of what was left open."""
    warnings.simplefilter("error", ResourceWarning)


def _leave_with_1(fault: str, leave: Callable[[int], object] = os._exit) -> None:
    """No other way leads from here to an exit code."""
    print(f"FAILED the run: at its end: {fault}", file=sys.stderr, flush=True)
    leave(1)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
