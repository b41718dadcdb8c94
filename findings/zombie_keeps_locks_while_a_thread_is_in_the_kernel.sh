#!/bin/sh
# Linux: a process that has exited keeps its file locks while one of its threads is in the kernel.
#
# One would guess: after _exit(2), and the more so after SIGKILL, a process is gone: its parent
# can wait for it, and the locks that it held are free for the next one.
# True: a thread that the kernel holds in a call that cannot be interrupted (here: a write to a
# frozen file system; a disk that hangs does the same) holds the whole process. The first thread
# is a zombie, which waitpid does not give to the parent, and the table of open files stays, so
# that fcntl locks on quite another file system stay taken. All ends by itself when the call
# returns. So a helper thread for calls that may hang does not protect what the process holds; a
# helper process does.
#
# Seen: Linux 6.18, ext4 with fsfreeze(8): zombie, not to be waited for, locked; free once thawed.
# Needs root.
set -eu

here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cd "$here"
truncate -s 16M image
mkfs.ext4 -q image
mkdir disk
cat > holder.py <<'PYTHON'
import fcntl
import os
import sys
import threading
import time

lock = open("lock", "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
threading.Thread(target=lambda: open("disk/file", "w").write("held"), daemon=True).start()
time.sleep(0.5)  # by then the thread is in the call
print("leaves", flush=True)
os._exit(0)
PYTHON
cat > watch.py <<'PYTHON'
import fcntl
import os
import signal
import subprocess
import sys
import time


def locked():
    with open("lock", "a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return "locked"
    return "free"


subprocess.run(["fsfreeze", "-f", "disk"], check=True)
try:
    child = subprocess.Popen([sys.executable, "holder.py"], stdout=subprocess.PIPE)
    child.stdout.readline()
    time.sleep(0.5)
    child.send_signal(signal.SIGKILL)
    time.sleep(0.5)
    with open(f"/proc/{child.pid}/stat") as stat:
        state = stat.read().rpartition(")")[2].split()[0]
    ended = os.waitpid(child.pid, os.WNOHANG) != (0, 0)
    print(state, "ended" if ended else "not to be waited for,", locked(), end=", ")
finally:
    subprocess.run(["fsfreeze", "-u", "disk"], check=True)
child.wait(10)
print("then", locked())
PYTHON
found=$(unshare --mount sh -c 'mount -o loop image disk && python3 watch.py; umount disk')
echo "Linux $(uname -r): $found"
case $found in
    "Z not to be waited for, locked, then free") echo "as written" ;;
    *) echo "changed"; exit 1 ;;
esac
