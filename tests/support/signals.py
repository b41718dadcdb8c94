"""The signals that everything the tests start begins with, however they were started."""

import signal

#: Python ignores these for itself, and gives them back to whatever `subprocess` starts.
_OF_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}


def hand_down_the_usual() -> None:
    """Have children inherit no signal that is ignored, and none that is blocked.

    A shell that is not interactive ignores SIGINT for what runs in its background, `nohup`
    SIGHUP, a careless service manager others; a test that interrupts a command would wait
    for ever. What is ignored gets a handler that does nothing: it spares us as before, and
    whatever we execute begins with the default.
    """
    for number in signal.valid_signals() - _OF_PYTHON:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _nothing)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _nothing(*_: object) -> None: ...
