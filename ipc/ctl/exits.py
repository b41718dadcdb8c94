"""Exit codes of geosched-ctl, and the errors they stand for (INTERFACE, "Commands")."""

import enum

from ..client import (
    ClientError,
    NotAnsweringError,
    NotDoneError,
    NotPermittedError,
    NotRunningError,
    RefusedError,
)
from ..messages.control import RefusalKind


class Exit(enum.IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    NO_DAEMON = 3  # not running, or not answering
    NOT_PERMITTED = 4
    NO_SUCH_ACTION = 5
    CONFLICT = 6
    NOT_DONE = 8  # answered, but not done in time
    INTERRUPTED = 130  # the convention of shells: 128 and SIGINT


_REFUSALS = {
    RefusalKind.BAD_REQUEST: Exit.USAGE,
    RefusalKind.NOT_PERMITTED: Exit.NOT_PERMITTED,
    RefusalKind.NO_SUCH_ACTION: Exit.NO_SUCH_ACTION,
    RefusalKind.CONFLICT: Exit.CONFLICT,
    RefusalKind.FAILED: Exit.FAILED,
}


class VerbFailedError(ClientError):
    """A verb that did not succeed for a reason of its own; `code` is the exit code."""

    def __init__(self, detail: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(detail)
        self.code = code


def exit_of(error: ClientError) -> Exit:
    match error:
        case NotRunningError() | NotAnsweringError():
            return Exit.NO_DAEMON
        case NotPermittedError():
            return Exit.NOT_PERMITTED
        case NotDoneError():
            return Exit.NOT_DONE
        case RefusedError(kind=kind):
            return _REFUSALS[kind]
        case VerbFailedError(code=code):
            return code
        case _:
            return Exit.FAILED
