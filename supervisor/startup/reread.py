"""The configuration file read again, for a reload, by a process of its own: its disk may hang, and
those of the programs that it names.
"""

import select
import sys
import time
from pathlib import Path

from ...workers.host import procfs
from ...workers.host.liveness import AnswerWait
from ..config.sections import Settings, SettingsError
from ..config.settings import parse, read
from ..store.tools.child_process import ChildProcess
from . import preflight

#: A reader hangs that did nothing for so long, or has used so much processor time (law 17): it
#: waits for a disk.
REREAD_IDLE_SECONDS_MAX = 30.0
REREAD_CPU_SECONDS_MAX = 60.0
_TOOL = "geosched.supervisor.startup.reread"


class Reread:
    """One reading of the file at `source`, begun with it. `pidfd` tells of its end."""

    def __init__(self, source: Path) -> None:
        """Raises `OSError`."""
        self._source = source
        self._child = ChildProcess(source, tool=_TOOL)
        self._awaited = AnswerWait(
            time.monotonic(),
            procfs.activity(self._child.pid),
            idle_seconds_max=REREAD_IDLE_SECONDS_MAX,
            cpu_seconds_max=REREAD_CPU_SECONDS_MAX,
        )
        self._ended = select.poll()
        self._ended.register(self._child.pidfd, select.POLLIN)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def pidfd(self) -> int:
        return self._child.pidfd

    def next_look(self) -> float:
        """Return the monotonic instant at which to ask for the result again."""
        return self._awaited.next_look()

    def abandon(self) -> None:
        """Have no result: nobody wants it any more."""
        self._child.abandon()

    def result(self) -> Settings | None:
        """Return the settings once they are read. Raises `SettingsError`."""
        if not self._ended.poll(0):
            if not self._awaited.hangs(time.monotonic(), procfs.activity(self.pid)):
                return None
            self.abandon()
            raise SettingsError(f"cannot look at {self._source} and what it names: no answer")
        answer = self._child.answer()
        if answer.complaint or answer.died_of or not answer.output:
            why = answer.complaint or f"its reader ended ({answer.died_of or answer.code})"
            raise SettingsError(why)
        return parse(answer.output, self._source)


def main() -> None:
    """Print the content of the file, or the reason why it cannot be used."""
    path = Path(sys.argv[1])
    try:
        content = read(path)
        settings = parse(content, path)
        preflight.refuse_untrusted(settings)
        preflight.refuse_foreign_users(settings)
    except SettingsError as error:
        sys.exit(str(error))
    sys.stdout.buffer.write(content)


if __name__ == "__main__":
    main()
