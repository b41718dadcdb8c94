"""Two minutes of it, or as many as are asked for: `make soak MINUTES=10 SEED=1`."""

import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from support.backend import BackendServer
from support.daemon import daemon_installation

from .checker import faults
from .plan import plan
from .soak import Soak

MINUTES = float(os.environ.get("GEOSCHED_SOAK_MINUTES", "2"))
SEED = int(os.environ.get("GEOSCHED_SOAK_SEED") or secrets.randbelow(10**6))
#: A soak that hit fewer live runs than that in two minutes has shown nothing.
HITS_MIN = 100


@pytest.mark.soak
@pytest.mark.alone
@pytest.mark.timeout(MINUTES * 60 + 240)
def test_whatever_is_killed_stopped_or_broken_no_run_is_doubled_left_or_lost(
    capsys: pytest.CaptureFixture[str],
):
    with capsys.disabled():
        print(f"\nsoak: seed {SEED}, {MINUTES:g} minutes", flush=True)
    with daemon_installation() as daemon, BackendServer() as backend:
        soak = Soak(daemon, backend, SEED)
        begun = time.monotonic()
        try:
            soak.begin()
            for step in plan(SEED):
                soak.take(step)
                if time.monotonic() - begun > MINUTES * 60:
                    break
            soak.finish()
            found = faults(soak.history)
            figures = soak.figures.lines(found, (time.monotonic() - begun) / 60)
            with capsys.disabled():
                print("\n".join(f"soak: {line}" for line in figures), flush=True)
            assert not found, "\n".join(fault.text for fault in found)
            assert not soak.figures.leaks()
            assert MINUTES < 2 or soak.figures.hits.total() >= HITS_MIN
        except BaseException:
            kept = Path(tempfile.mkdtemp(prefix="geosched-soak-"))
            shutil.copytree(daemon.root, kept, dirs_exist_ok=True, ignore=_no_sockets)
            (kept / "struck").write_text("\n".join(map(str, soak.history.struck)))
            with capsys.disabled():
                print(f"soak: failed with seed {SEED}; what was seen is kept in {kept}")
            raise


def _no_sockets(directory: str, names: list[str]) -> set[str]:
    return {name for name in names if (Path(directory) / name).is_socket()}
