#!/bin/sh
# LMDB: a reader behind a read-only mount has no snapshot.
#
# One would guess: a read transaction sees one instant until it ends, whoever writes meanwhile;
# and where a reader cannot make itself known in the lock file, opening says so.
# True: where the lock file lies on a read-only mount (a volume that a container has read-only,
# a bind mount) LMDB opens the environment for reading without any lock, in silence. A writer on
# the other side does not know of the reader and uses the pages of its snapshot again: the same
# key, read twice in one transaction, has two values. `readers()` says "(no reader locks)".
#
# Seen: lmdb 3.0.0 (LMDB 0.9.36), Linux 6.18: after a hundred small commits another value behind the
#   read-only mount, and the same one where the lock file can be written.
# Needs root, or user namespaces.
set -eu

here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cd "$here"
python3 -m venv venv
venv/bin/python -m pip install -q --disable-pip-version-check lmdb==3.0.0
mkdir store behind
cat > write.py <<'PYTHON'
import os

import lmdb

with lmdb.open("store", lib_version=0) as env:
    for _ in range(100):
        value = os.urandom(20)
        with env.begin(write=True) as txn:
            for key in range(50):
                txn.put(b"%03d" % key, value)
PYTHON
cat > read.py <<'PYTHON'
import subprocess
import sys

import lmdb

with lmdb.open(sys.argv[1], readonly=True, lib_version=0) as env, env.begin() as txn:
    before = bytes(txn.get(b"010"))
    subprocess.run([sys.executable, "write.py"], check=True)
    after = txn.get(b"010")
    same = after is not None and bytes(after) == before
    print("same" if same else "changed", end="")
PYTHON
venv/bin/python write.py
found="writable $(venv/bin/python read.py store)"
found="$found, read-only $(unshare --mount --map-root-user sh -c '
    mount --bind store behind && mount -o remount,bind,ro behind && venv/bin/python read.py behind
')"
venv/bin/python -c 'import lmdb; print("lmdb", lmdb.__version__, lmdb.version())'
echo "the second look in one transaction: $found"
case $found in
    "writable same, read-only changed") echo "as written" ;;
    *) echo "changed"; exit 1 ;;
esac
