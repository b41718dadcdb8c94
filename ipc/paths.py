"""Where things are that more than one process has to find. Names only: nothing is opened.

`geosched-ctl` learns the daemon's socket here without reading the rest of its settings.
"""

from pathlib import Path

DEFAULT_CONFIG = Path("/etc/geosched/geosched.toml")
DEFAULT_STATE_DIR = "/var/lib/geosched"
DEFAULT_RUNTIME_DIR = "/run/geosched"
DEFAULT_LOG_DIR = "/var/log/geosched"
#: `sun_path` holds 108 bytes, one of them the end mark (fact Z2).
ENDPOINT_PATH_BYTES_MAX = 107


class Runtime:
    """The files below `runtime_dir`."""

    def __init__(self, runtime_dir: Path) -> None:
        self.dir = runtime_dir
        self.lock = runtime_dir / "lock"
        self.store_lock = runtime_dir / "daemondb.lock"
        self.control_socket = runtime_dir / "control.sock"
        self.worker_socket = runtime_dir / "workers.sock"
        self.sync_socket = runtime_dir / "sync.sock"
        self.runs = runtime_dir / "runs"  # a lock file for every run that lives
        self.results = runtime_dir / "results"  # how runs ended that nobody acknowledged
        self.backoff = runtime_dir / "backoff.json"  # when the backend may be asked again
        self.processes = runtime_dir / "processes"  # who is who: one file a child process


def control_socket(config: Path) -> Path:
    """The control socket of the daemon with this configuration file.

    Raises `OSError` where it cannot be read and `ValueError` where it is not TOML.
    """
    return Runtime(_directory(config, "runtime_dir", DEFAULT_RUNTIME_DIR)).control_socket


def state_dir(config: Path) -> Path:
    """Where the daemon with this configuration file keeps its database. Raises as above."""
    return _directory(config, "state_dir", DEFAULT_STATE_DIR)


def _directory(config: Path, key: str, default: str) -> Path:
    import tomllib  # not earlier: a worker has no use for it

    with config.open("rb") as file:
        document = tomllib.load(file)
    daemon = document.get("daemon", {})
    directory = daemon.get(key, default) if isinstance(daemon, dict) else ""
    if not isinstance(directory, str) or not directory:
        raise ValueError(f"daemon.{key} is not a path")
    return config.absolute().parent / directory
