"""Paths that more than one process has to know. Nothing is opened but the configuration.

`geosched-ctl` finds the daemon's socket here without reading the rest of its settings.
"""

from pathlib import Path

from .regular_files import CONFIGURATION_BYTES_MAX, open_regular

DEFAULT_CONFIG = Path("/etc/geosched/geosched.toml")
DEFAULT_STATE_DIR = "/var/lib/geosched"
DEFAULT_RUNTIME_DIR = "/run/geosched"
DEFAULT_LOG_DIR = "/var/log/geosched"
#: `sun_path` holds 108 bytes, one of them the end mark (fact Z2).
ENDPOINT_PATH_BYTES_MAX = 107
#: No pid of Linux is greater.
PID_MAX = 4 * 1024 * 1024


class Runtime:
    """The files below `runtime_dir`."""

    def __init__(self, runtime_dir: Path) -> None:
        self.dir = runtime_dir
        self.lock = runtime_dir / "lock"
        self.store_lock = runtime_dir / "daemondb.lock"
        self.control_socket = runtime_dir / "control.sock"
        self.worker_socket = runtime_dir / "workers.sock"
        self.runs = runtime_dir / "runs"  # a lock file for each run that lives
        self.results = runtime_dir / "results"  # results of ended runs, until acknowledged
        self.backoff = runtime_dir / "backoff.json"  # the earliest next exchanges
        self.processes = runtime_dir / "processes"  # the identities of child processes
        self.notify = runtime_dir / "sd"  # sockets for sd_notify(3); short, as their paths must be

    def notify_socket(self, worker_pid: int) -> Path:
        """Return the file of the socket on which a worker hears its script."""
        return self.notify / str(worker_pid)


def status_journal(actions: str) -> Path:
    """Return the file of reports of a backend of the kind `file`, beside its actions."""
    return Path(f"{actions}.status.jsonl")


def control_socket(config: Path) -> Path:
    """Return the control socket of the daemon with this configuration file.

    Raises `OSError` where it cannot be read and `ValueError` where it is not TOML.
    """
    return Runtime(_directory(config, "runtime_dir", DEFAULT_RUNTIME_DIR)).control_socket


def state_dir(config: Path) -> Path:
    """Return the `state_dir` of the daemon with this configuration file.

    Raises as `control_socket` does.
    """
    return _directory(config, "state_dir", DEFAULT_STATE_DIR)


def _directory(config: Path, key: str, default: str) -> Path:
    import tomllib  # late: a worker has no use for it

    with open_regular(config) as file:
        content = file.read(CONFIGURATION_BYTES_MAX + 1)
    if len(content) > CONFIGURATION_BYTES_MAX:
        raise ValueError(f"it is longer than {CONFIGURATION_BYTES_MAX} bytes")
    try:
        # Editors write a byte order mark.
        document = tomllib.loads(content.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("nested too deep") from None
    daemon = document.get("daemon", {})
    directory = daemon.get(key, default) if isinstance(daemon, dict) else ""
    if not isinstance(directory, str) or not directory:
        raise ValueError(f"daemon.{key} is not a path")
    return config.absolute().parent / directory
