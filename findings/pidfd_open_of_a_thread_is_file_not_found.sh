#!/bin/sh
# Linux: pidfd_open of a number that a thread has is ENOENT, which Python calls FileNotFoundError.
#
# One would guess: pidfd_open(2) of a number that is no process any more is ESRCH, in Python
# ProcessLookupError, as of kill(2). Pids are used again, so code that looks for old ones catches
# that. The manual names EINVAL for what is no process.
# True: threads take their numbers from the same row. If one has the number by now, the answer is
# ENOENT (EINVAL in older kernels), and kill(2) of it succeeds, on the process of the thread;
# /proc/<number> is there, too. A loop over remembered pids that catches ProcessLookupError works
# for years, until a number goes to a thread.
#
# Seen: Linux 6.18, Python 3.11.7: FileNotFoundError ENOENT, kill and /proc find it; a number
#   that nobody has: ProcessLookupError ESRCH.
set -eu

found=$(python3 - <<'PYTHON'
import errno
import os
import threading


def opened(number):
    try:
        os.close(os.pidfd_open(number))
    except OSError as error:
        return f"{type(error).__name__} {errno.errorcode[error.errno]}"
    return "opened"


leave = threading.Event()
thread = threading.Thread(target=leave.wait)
thread.start()
number = thread.native_id
os.kill(number, 0)  # found
there = os.path.exists(f"/proc/{number}/stat")
print(f"thread: {opened(number)}, {'in' if there else 'not in'} /proc", end="; ")
leave.set()
thread.join()
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
print(f"nobody: {opened(child)}")
PYTHON
)
echo "Linux $(uname -r), $found"
case $found in
    "thread: FileNotFoundError ENOENT, in /proc; nobody: ProcessLookupError ESRCH") echo "as written" ;;
    *) echo "changed"; exit 1 ;;
esac
