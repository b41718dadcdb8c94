#!/bin/sh
# LMDB: two readers that have the same pid in two PID namespaces shut each other out.
#
# One would guess: any number of processes up to `max_readers` may read a store at once; two
# containers that share a volume are two processes.
# True: a reader marks itself as alive by a lock of the one byte of lock.mdb that has the number
# of its pid, as its own namespace counts. In containers that pid is mostly 1. The second reader
# fails as it opens the environment, or at its first transaction, with EAGAIN, "Resource temporarily unavailable",
# for as long as the first has the environment open, whether in a transaction or not.
#
# Seen: lmdb 3.0.0 (LMDB 0.9.36), Linux 6.18: reads, LockError 11, and reads outside.
# Needs root, or user namespaces.
set -eu

here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cd "$here"
python3 -m venv venv
venv/bin/python -m pip install -q --disable-pip-version-check lmdb==3.0.0
cat > read.py <<'PYTHON'
import sys

import lmdb

try:
    env = lmdb.open("store", lib_version=0)
    with env.begin() as txn:
        txn.get(b"key")
    print("reads", flush=True)
except lmdb.Error as error:
    print(type(error).__name__, error.code, flush=True)
sys.stdin.read()  # stay open, without a transaction, until told
PYTHON
mkdir store
apart="unshare --map-root-user --pid --fork --kill-child"
mkfifo go
$apart venv/bin/python read.py < go > first &
exec 3> go
until [ -s first ]; do sleep 0.1; done
second=$($apart venv/bin/python read.py < /dev/null)
outside=$(venv/bin/python read.py < /dev/null)
exec 3>&-
wait
found="$(cat first), $second, $outside"
venv/bin/python -c 'import lmdb; print("lmdb", lmdb.__version__, lmdb.version())'
echo "pid 1, pid 1 elsewhere, another pid: $found"
case $found in
    "reads, LockError 11, reads") echo "as written" ;;
    *) echo "changed"; exit 1 ;;
esac
