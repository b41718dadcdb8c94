#!/bin/sh
# pytest-xdist: what a worker finds wrong while it cleans up fails nothing.
#
# One would guess: a suite with `filterwarnings = error` that fails of a leak without `-n` fails
# of it with `-n` too, for a worker runs the same pytest, and a worker that ends by an exception
# or a signal is noticed.
# True: a worker says "finished" when its session ends, and cleans up afterwards. pytest looks
# once more for unraisable exceptions then; what it raises ends the worker, and the first process
# hears nothing of it. The same goes for a worker that a signal ends after its last test. Both
# runs print "passed" and exit with 0.
#
# Seen: pytest 9.2.0, pytest-xdist 3.8.0, Python 3.11.7: exit 1 0 for a leak, -n 0 and -n 1;
#   137 0 for a kill at exit.
set -eu

here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cd "$here"
python3 -m venv venv
venv/bin/python -m pip install -q --disable-pip-version-check pytest==9.2.0 pytest-xdist==3.8.0
cat > pytest.ini <<'INI'
[pytest]
filterwarnings = error
INI
cat > test_leak.py <<'PYTHON'
import gc
import socket


class Ring: ...


def test_that_leaves_a_socket_in_a_circle():
    gc.disable()
    ring = Ring()
    ring.itself, ring.socket = ring, socket.socket()
PYTHON
cat > test_killed.py <<'PYTHON'
import atexit
import os
import signal


def test_that_ends_its_process_later():
    atexit.register(os.kill, os.getpid(), signal.SIGKILL)
PYTHON

code() {
    set +e
    # In a shell of its own, which may say "Killed".
    sh -c 'venv/bin/python -m pytest -q -p no:cacheprovider "$@"; exit $?' sh "$@" >> out 2>&1
    echo $?
    set -e
}
found="leak $(code test_leak.py) $(code -n 1 test_leak.py)"
found="$found, killed $(code test_killed.py) $(code -n 1 test_killed.py)"
echo "exit codes without -n and with: $found"
case $found in
    "leak 1 0, killed 137 0") echo "as written" ;;
    *) cat out; echo "changed"; exit 1 ;;
esac
