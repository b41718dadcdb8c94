"""Looks at the file of a store in a process of its own, before anybody opens it:
`python -m geosched.supervisor.store.tools.examiner PLACE`.

What is found is one JSON document on standard output. A damaged file may end this process
(fact 3), which tells as much. A start waits for it: so it imports what it needs to look, and
no more.
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
    """Structure and contents at once, which halves the time where there are two cores; the
    contents in a fork, which may die of what the structure tells, and ends with this one."""
    answer = os.memfd_create("contents")
    own = os.getpid()
    contents = os.fork()
    if contents == 0:
        set_parent_death_signal(signal.SIGKILL)
        if os.getppid() == own:  # else it ended before it could be told to take us along
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
    """What it found; this process ends as that one did, where it did not end well."""
    _, status = os.waitpid(contents, 0)
    if os.WIFSIGNALED(status):
        signal.raise_signal(os.WTERMSIG(status))
    if status:
        raise SystemExit(_EXIT_FAILED)  # it has said why
    return msgspec.json.decode(os.pread(answer, ANSWER_BYTES_MAX, 0), type=Examination)


if __name__ == "__main__":
    main()
