#!/bin/sh
# btrfs: on a full file system a write through a map is SIGBUS though its blocks are allocated.
#
# One would guess: what posix_fallocate(3) has allocated can be written afterwards without running
# out of space; POSIX says so. A program that maps a small file and fills it ahead cannot die of
# a full disk later.
# True: btrfs copies on write, and wants another block for each page that becomes dirty. When none
# is left, the store instruction itself is a SIGBUS, on a page that was written before, too. Not
# so where the file was marked NOCOW (chattr +C) while it was still empty, as long as there is room
# for metadata: a small file system that keeps both in the same blocks (mkfs.btrfs --mixed) may
# have none, and then the signal comes for such a file as well.
#
# Seen: Linux 6.18, btrfs-progs 6.2: signal 7 of a plain file, exit 0 of one with NOCOW.
# Needs root and mkfs.btrfs.
set -eu

here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cd "$here"
cat > write.py <<'PYTHON'
import contextlib
import mmap
import os
import subprocess
import sys

os.chdir("disk")
with open("mapped", "wb") as file:
    if sys.argv[1] == "nocow":
        subprocess.run(["chattr", "+C", "mapped"], check=True)
    os.posix_fallocate(file.fileno(), 0, 8192)
    os.pwrite(file.fileno(), bytes(8192), 0)
os.sync()
for piece in 65536, 512:
    with contextlib.suppress(OSError), open(f"ballast{piece}", "wb", buffering=0) as file:
        while True:
            file.write(bytes(piece))
os.sync()
with open("mapped", "r+b") as file, mmap.mmap(file.fileno(), 8192) as view:
    for turn in range(100):
        view[turn % 2 * 4096] = turn
        view.flush()
PYTHON
code() {
    truncate -s 0 image
    truncate -s 300M image
    mkfs.btrfs -q image > /dev/null 2>&1
    mkdir -p disk
    set +e
    unshare --mount sh -c "mount -t btrfs -o loop image disk || exit 99
        python3 write.py $1; left=\$?; umount disk; exit \$left" > out 2>&1
    echo $?
    set -e
}
found="plain $(code plain), nocow $(code nocow)"
echo "Linux $(uname -r), exit codes: $found"
case $found in
    "plain 135, nocow 0") echo "as written" ;;
    *) cat out; echo "changed"; exit 1 ;;
esac
