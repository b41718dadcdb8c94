#!/bin/sh
# XFS: posix_fallocate on a copy that shares its blocks succeeds, and promises nothing.
#
# One would guess: after posix_fallocate(3) has returned 0, a write to that range does not fail
# for want of space; POSIX says so. `cp --reflink` is only a faster copy.
# True: the blocks of such a copy count as allocated, so that the call has nothing to do; but the
# first write to each needs a free block, and on a full disk it is ENOSPC. st_blocks shows a file
# that has all its blocks. fallocate(2) with FALLOC_FL_UNSHARE_RANGE gives the file its own.
#
# Seen: Linux 6.18, XFS of xfsprogs 6.1: 0 and ENOSPC; after unsharing the write succeeds.
# Needs root and mkfs.xfs.
set -eu

here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cd "$here"
cat > write.py <<'PYTHON'
import contextlib
import errno
import os
import subprocess
import sys

SIZE = 16 << 20
os.chdir("disk")
with open("original", "wb") as file:
    file.write(os.urandom(SIZE))
    os.fsync(file.fileno())
subprocess.run(["cp", "--reflink=always", "original", "copy"], check=True)
with open("copy", "r+b", buffering=0) as file:
    if sys.argv[1] == "unshared":
        subprocess.run(["xfs_io", "-c", f"funshare 0 {SIZE}", "copy"], check=True)
    os.posix_fallocate(file.fileno(), 0, SIZE)
    os.fsync(file.fileno())
    allocated = os.fstat(file.fileno()).st_blocks * 512 >= SIZE
    for piece in 1 << 20, 4096:
        with contextlib.suppress(OSError), open(f"ballast{piece}", "wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(piece))
    try:
        os.pwrite(file.fileno(), bytes(SIZE), 0)
        os.fsync(file.fileno())
        written = os.pread(file.fileno(), SIZE, 0) == bytes(SIZE)
        print("allocated" if allocated else "not allocated", "written" if written else "cut short")
    except OSError as error:
        print("allocated" if allocated else "not allocated", errno.errorcode[error.errno])
PYTHON
what() {
    truncate -s 0 image
    truncate -s 400M image
    mkfs.xfs -q -f image
    mkdir -p disk
    unshare --mount sh -c "mount -t xfs -o loop image disk && python3 write.py $1; umount disk"
}
found="shared: $(what shared), unshared: $(what unshared)"
echo "Linux $(uname -r), $found"
case $found in
    "shared: allocated ENOSPC, unshared: allocated written") echo "as written" ;;
    "shared: allocated cut short, unshared: allocated written") echo "as written" ;;
    *) echo "changed"; exit 1 ;;
esac
