"""Names of signals, also of those that have none."""


def signal_name(number: int) -> str:
    """Return a name such as "SIGTERM"; real-time signals have none, and get "SIG35"."""
    import signal  # late: the help of geosched-ctl has no use for it

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
