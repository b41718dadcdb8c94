"""Probe for a thread: libzmq aborts its process where it is given none (fact P33)."""

import _thread


def thread_refused() -> OSError | None:
    """Return the error where this process may start no thread, as under `ulimit -u`, TasksMax or
    a seccomp profile that does not know clone3."""
    try:
        _thread.start_new_thread(int, ())
    except RuntimeError as error:
        return OSError(str(error))
    return None
