"""Examining process: `python -m geosched.supervisor.store.tools.examiner DIRECTORY`.

Examines the file of a store before it is opened, and prints the finding as one JSON document.
A damaged file may kill this process (fact 3), which is a finding too. A start waits for it:
so it imports what it needs to examine, and no more.
"""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ....workers.host.linux import set_parent_death_signal
from ..errors import StoreError
from ..repair.examine import examine_contents, examine_structure
from ..repair.findings import Examination, both

SECONDS_MAX = 3600
ANSWER_BYTES_MAX = 16 * 1024**2
_EXIT_FAILED = 1


def main(arguments: Sequence[str] | None = None) -> None:
    store_dir = Path((sys.argv[1:] if arguments is None else arguments)[0])
    set_parent_death_signal(signal.SIGKILL)
    signal.alarm(SECONDS_MAX)
    try:
        found = _examine(store_dir)
    except (StoreError, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(_EXIT_FAILED) from None
    sys.stdout.buffer.write(msgspec.json.encode(found))
    sys.stdout.buffer.flush()


def _examine(store_dir: Path) -> Examination:
    """Examine structure and contents at the same time, which halves the time on two cores.

    The contents are examined in a fork, which a fault of the structure may kill, and which ends
    with this process.
    """
    answer = os.memfd_create("contents")
    own = os.getpid()
    contents = os.fork()
    if contents == 0:
        set_parent_death_signal(signal.SIGKILL)
        if os.getppid() == own:  # else the parent ended before the signal was set
            _tell_contents(store_dir, answer)
        os._exit(_EXIT_FAILED)
    return both(examine_structure(store_dir), lambda: _told(contents, answer))


def _tell_contents(store_dir: Path, answer: int) -> None:
    signal.alarm(SECONDS_MAX)
    try:
        os.write(answer, msgspec.json.encode(examine_contents(store_dir)))
    except (StoreError, OSError) as error:
        print(error, file=sys.stderr, flush=True)
    except MemoryError:
        print("cannot read it: there is too little memory", file=sys.stderr, flush=True)
    else:
        os._exit(os.EX_OK)


def _told(contents: int, answer: int) -> Examination:
    """Return the fork's finding; where it failed, end this process in the same way."""
    _, status = os.waitpid(contents, 0)
    if os.WIFSIGNALED(status):
        signal.raise_signal(os.WTERMSIG(status))
    if status:
        raise SystemExit(_EXIT_FAILED)  # the reason is on standard error
    return msgspec.json.decode(os.pread(answer, ANSWER_BYTES_MAX, 0), type=Examination)


if __name__ == "__main__":
    main()
