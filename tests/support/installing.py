"""The installer, below a directory of a test's own."""

import os
import subprocess
from pathlib import Path

from .paths import DEPLOY


def install(root: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run it for sysvinit below `root`, unless `variables` say otherwise."""
    environment = {"PREFIX": f"{root}/usr", "SYSCONFDIR": f"{root}/etc", "INIT": "sysv"}
    return subprocess.run(
        [DEPLOY / "install.sh"],
        env=os.environ | environment | variables,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
