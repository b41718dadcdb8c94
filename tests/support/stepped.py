"""A wall clock of a daemon's own, that a test can step, in every process of the daemon. The
clocks that run on, and the host's own, are left alone.

By a library of a few lines that stands before the C library's `clock_gettime`. (libfaketime
does this too, but fails the sleeps of Python on the monotonic clock.)
"""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    long long seconds = 0;
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    if (result != 0 || id != CLOCK_REALTIME) return result;
    int file = open(getenv("STEPPED_CLOCK"), O_RDONLY | O_CLOEXEC);
    if (file >= 0) {
        if (read(file, &seconds, sizeof seconds) == sizeof seconds) now->tv_sec += seconds;
        close(file);
    }
    return 0;
}
"""
#: The daemon does not pass LD_PRELOAD on to its children, so each takes it for itself.
_SITE = """
import os, sys
if "LD_PRELOAD" not in os.environ:
    os.environ.update({settings!r})
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
"""


class SteppedClock:
    """A file below `root` says how far the clock is off. `environment` is for the daemon."""

    def __init__(self, root: Path) -> None:
        if shutil.which("cc") is None:
            pytest.skip("a clock of the daemon's own needs a C compiler (cc)")
        library, site = root / "stepped.so", root / "site"
        command = ["cc", "-shared", "-fPIC", "-O2", "-x", "c", "-", "-ldl", "-o", library]
        subprocess.run(command, input=_SOURCE.encode(), check=True)
        self._offset = root / "offset"
        self._off_seconds = 0
        self.step(0)
        site.mkdir()
        settings = {"LD_PRELOAD": str(library), "STEPPED_CLOCK": str(self._offset)}
        (site / "sitecustomize.py").write_text(_SITE.format(settings=settings))
        self.environment = {"PYTHONPATH": str(site)}

    def step(self, seconds: int) -> None:
        """From where the clock is now; renamed into place, so that nobody reads half of it."""
        self._off_seconds += seconds
        new = self._offset.with_suffix(".new")
        new.write_bytes(struct.pack("q", self._off_seconds))
        os.replace(new, self._offset)
