#!/bin/sh
# posix_spawn(3) of glibc starts programs that ignore signals 32 and 33.
#
# One would guess: a process that ignores nothing starts programs that ignore nothing, whether
# it forks and executes them or calls posix_spawn; and a program can put every signal back to
# its default.
# True: glibc's posix_spawn sets the two signals it keeps for itself (thread cancellation and
# setuid of all threads) to "ignore" in the child, and they stay so over exec, down all
# generations. GNU make and Python's os.posix_spawn start programs that way. Nothing in Python,
# and no portable call, resets them: sigaction(2) of glibc refuses both numbers. A test that
# demands an empty SigIgn fails below make and passes below a shell.
#
# Seen: glibc 2.36 (Debian 12), Linux 6.18, Python 3.11.7, GNU make 4.3:
#   fork and exec 0, posix_spawn 180000000, below make 180000000.
set -eu

version=$(getconf GNU_LIBC_VERSION 2>/dev/null) || { echo "needs glibc"; exit 1; }
echo "$version"

found=$(python3 - <<'PYTHON'
import os
import signal
import sys

for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_DFL)
show = ["grep", "^SigIgn", "/proc/self/status"]


def ignored(start):
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    pid = start(writer)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as output:
        return int(output.read().split()[1], 16) >> 31 & 3  # signals 32 and 33


def fork_and_exec(writer):
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        os.execvp(show[0], show)
    return pid


def posix_spawn(writer):
    actions = [(os.POSIX_SPAWN_DUP2, writer, 1)]
    return os.posix_spawnp(show[0], show, dict(os.environ), file_actions=actions)


before = ignored(fork_and_exec)
print("fork and exec:", before, "posix_spawn:", ignored(posix_spawn))
# What is inherited from whoever started this script cannot be told from our own doing.
sys.exit(0 if before in (0, 3) else 1)
PYTHON
)
echo "signals 32 and 33 ignored (bits), $found"
case $found in
    "fork and exec: 0 posix_spawn: 3") echo "as written" ;;
    "fork and exec: 3 posix_spawn: 3") echo "inherited already; start this from a shell, not from make"; exit 1 ;;
    *) echo "changed"; exit 1 ;;
esac
