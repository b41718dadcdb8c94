"""A process that works for a verb, apart from the terminal: it may parse what strangers wrote.

Run by root, it gives up its rights before it does. One that was taken over by what it reads may not
reach root's terminal, then: it is in a session of its own, and its streams are pipes. What it
complains of is shown as foreign text.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from ..client import NotDoneError
from ..environment import child_environment
from .exits import VerbFailedError
from .printing import complain

if TYPE_CHECKING:
    from types import TracebackType

LINE_BYTES_MAX = 64 * 1024
#: Lines of its standard error that are kept or shown, of so many bytes each.
COMPLAINTS_MAX = 100
COMPLAINT_BYTES_MAX = 4096
#: One that is interrupted may clean up, and one that has ended may have said why.
LEAVES_SECONDS_MAX = 5.0
LAST_WORDS_SECONDS_MAX = 1.0

#: Shows a line of standard error.
Show = Callable[[str], None]


class Complaints:
    """Shows foreign text as complaints of this command, `COMPLAINTS_MAX` of them."""

    def __init__(self) -> None:
        self._shown = 0

    def __call__(self, text: str) -> None:
        self._shown += 1
        if self._shown <= COMPLAINTS_MAX:
            complain(text)


class Tool:
    """A running tool, `python -m MODULE`; use it as a context, which ends it."""

    def __init__(
        self, what: str, module: str, *arguments: str | Path, show: Show, given: bytes = b""
    ) -> None:
        """Start it; `what` it does is for errors, `show` is given each line of its standard
        error, and `given` is what it reads on standard input: arguments are there for everybody
        to see. Raises `VerbFailedError`."""
        import subprocess  # late: the help of geosched-ctl imports this module

        command: Sequence[str | Path] = [sys.executable, "-P", "-m", module, *arguments]
        try:
            with _input_of(given) as standard_input:
                self._process: subprocess.Popen[bytes] = subprocess.Popen(
                    command,
                    stdin=standard_input,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=child_environment(os.environ),
                    start_new_session=True,
                )
        except OSError as error:
            detail = f"cannot {what}: cannot start {sys.executable}: {error.strerror}"
            raise VerbFailedError(detail) from None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.output: IO[bytes] = self._process.stdout
        self._what = what
        self._late_seconds: float | None = None
        self._timer: threading.Timer | None = None
        self._listener = threading.Thread(
            target=_show_lines, args=(self._process.stderr, show), daemon=True
        )
        self._listener.start()

    def end_after(self, seconds: float | None) -> None:
        """Kill it once so much time is over; None never. `code` then raises `NotDoneError`."""
        if seconds is None:
            return
        self._timer = threading.Timer(seconds, self._be_late, (seconds,))
        self._timer.daemon = True
        self._timer.start()

    def _be_late(self, seconds: float) -> None:
        self._late_seconds = seconds
        self._process.kill()

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of its output; one that is too long in pieces."""
        while line := self.output.readline(LINE_BYTES_MAX):
            yield line

    def code(self) -> int:
        """Wait for its end, and until its complaints are shown; return the exit code, which is that
        of a signal below 0. Raises `NotDoneError` where its time was over."""
        code = self._process.wait()
        self._listener.join(LAST_WORDS_SECONDS_MAX)
        if self._late_seconds is not None:
            raise NotDoneError(f"cannot {self._what}: not done within {self._late_seconds:g} s")
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: "TracebackType | None",
    ) -> None:
        """End it: in its own session it hears of no Ctrl-C."""
        if self._timer is not None:
            self._timer.cancel()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT if error else signal.SIGTERM)
            self._end()
        self._listener.join(LAST_WORDS_SECONDS_MAX)
        self.output.close()

    def _end(self) -> None:
        import subprocess

        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVES_SECONDS_MAX)
            return
        self._process.kill()
        self._process.wait()


def _input_of(given: bytes) -> IO[bytes]:
    """Return what is to be read on standard input: a file in memory, which needs no writer. Raises
    `OSError`."""
    if not given:
        return open(os.devnull, "rb")
    file = os.fdopen(os.memfd_create("geosched-given"), "w+b")
    file.write(given)
    file.seek(0)
    return file


def _show_lines(stream: IO[bytes], show: Show) -> None:
    while line := stream.readline(COMPLAINT_BYTES_MAX):
        if text := line.decode(errors="replace").rstrip("\n"):
            show(text)
    stream.close()
