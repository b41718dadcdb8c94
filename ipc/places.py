"""Where things are that more than one process has to find. Names only: nothing is opened.

`geosched-ctl` learns the daemon's socket here without reading the rest of its settings.
"""

import tomllib
from pathlib import Path

DEFAULT_CONFIG = Path("/etc/geosched/geosched.toml")
DEFAULT_STATE_DIR = "/var/lib/geosched"
DEFAULT_RUNTIME_DIR = "/run/geosched"
DEFAULT_LOG_DIR = "/var/log/geosched"


class Runtime:
    """The files below `runtime_dir`."""

    def __init__(self, runtime_dir: Path) -> None:
        self.dir = runtime_dir
        self.lock = runtime_dir / "lock"
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
    with config.open("rb") as file:
        document = tomllib.load(file)
    daemon = document.get("daemon", {})
    runtime_dir = daemon.get("runtime_dir", DEFAULT_RUNTIME_DIR) if isinstance(daemon, dict) else ""
    if not isinstance(runtime_dir, str) or not runtime_dir:
        raise ValueError("daemon.runtime_dir is not a path")
    return Runtime(config.absolute().parent / runtime_dir).control_socket
