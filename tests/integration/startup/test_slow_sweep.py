"""A sweep on a host on which a single look at all processes takes longer than all of it may."""

import subprocess
import sys
from pathlib import Path

import pytest
from geosched.ipc.paths import Runtime
from geosched.supervisor.startup import sweep
from geosched.supervisor.startup.mark import mark_of
from geosched.supervisor.startup.sweep import Leftovers
from geosched.workers.runfiles.processes import make_directories
from support.daemon import lives


def test_a_sweep_whose_time_is_over_before_its_second_round_ends_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first round spares workers, so that all of it is left to those that follow."""
    runtime = Runtime(tmp_path / "run")
    runtime.dir.mkdir()
    make_directories(runtime)
    monkeypatch.setattr(sweep, "SWEEP_SECONDS_MAX", 0.0)
    monkeypatch.setattr(sweep, "WORKERS_SPARED_SECONDS", 0.001)
    declares = (
        "import sys, time; from pathlib import Path; from geosched.ipc.paths import Runtime;"
        "from geosched.workers.runfiles.processes import Kind, declare;"
        "declare(Runtime(Path(sys.argv[1])), Kind.WORKER, 'worker-1');"
        "print('declared', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", declares, str(runtime.dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as old:
        try:
            assert old.stdout is not None
            assert old.stdout.readline()
            leftovers = Leftovers(runtime, mark_of(tmp_path), tmp_path)
            leftovers.begin_sweep()
            assert lives(old.pid)
            leftovers.sweep()
            leftovers.close()
            assert not lives(old.pid)
        finally:
            old.kill()
