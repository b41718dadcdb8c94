#!/bin/sh
# LMDB 0.9 (py-lmdb 3.0.0) on a full disk: an environment that can be used no more, for reading too.
#
# One would guess: a commit for which there is no room fails with ENOSPC, the transaction is
# undone, and everything before it can be read on; so lmdb.h says of mdb_txn_commit.
# True: that is so while the data pages find no room. Where the file shares its blocks with a copy
# (cp --reflink, XFS), the last page of a commit, the one that names the newest pages, wants a block
# of its own, too. If that is the one without room, LMDB gives the environment up: this commit is
# ENOSPC, and every transaction after it MDB_PANIC, reading ones too, even when there is room again.
# Nothing is lost: opened anew in the same process it has what it had before that commit.
#
# Seen: Linux 6.18, XFS of xfsprogs 6.1, py-lmdb 3.0.0: ENOSPC, PANIC, and all rows after reopening.
# Needs root and mkfs.xfs.
set -eu

here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cd "$here"
python3 -m venv env
env/bin/pip -q install lmdb==3.0.0
cat > write.py <<'PYTHON'
import contextlib
import os
import subprocess

import lmdb

os.chdir("disk")
PAGE = 4096


def open_it():
    return lmdb.open("store", map_size=16 << 20, lib_version=0)


env = open_it()
with env.begin(write=True) as txn:
    for number in range(1000):
        txn.put(b"old-%d" % number, bytes(100))
env.close()
os.posix_fallocate(os.open("store/data.mdb", os.O_RDWR), 0, 16 << 20)  # blocks for all data pages
subprocess.run(["cp", "-a", "--reflink=always", "store", "copy"], check=True)
# Blocks of its own again for all but the first pages; two of these name the newest.
subprocess.run(["xfs_io", "-c", f"funshare {16 * PAGE} {(16 << 20) - 16 * PAGE}", "store/data.mdb"],
               check=True)
env = open_it()
for piece in 1 << 20, PAGE:
    with contextlib.suppress(OSError), open(f"ballast{piece}", "wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(piece))
said = []
for number in range(20):
    try:
        with env.begin(write=True) as txn:
            txn.put(b"new-%d" % number, bytes(100))
    except lmdb.Error as error:
        said.append(str(error).partition(": ")[2].partition(":")[0])
for name in os.listdir("."):
    if name.startswith("ballast"):
        os.unlink(name)
try:
    with env.begin() as txn:
        said.append(f"{env.stat()['entries']} rows")
except lmdb.Error as error:
    said.append(str(error).partition(": ")[2].partition(":")[0])
env.close()
env = open_it()
with env.begin(write=True) as txn:
    txn.put(b"new", b"")
    rows = sum(key.startswith(b"old-") for key, _ in txn.cursor())
print(", ".join(dict.fromkeys(said)), f"; opened anew: {rows} rows and written")
PYTHON
truncate -s 400M image
mkfs.xfs -q -f image
mkdir -p disk
found=$(unshare --mount sh -c "mount -t xfs -o loop image disk && env/bin/python write.py; umount disk")
echo "Linux $(uname -r), py-lmdb 3.0.0: $found"
case $found in
    "No space left on device, MDB_PANIC ; opened anew: 1000 rows and written") echo "as written" ;;
    *) echo "changed"; exit 1 ;;
esac
