"""The limit: sleep until the instant, then posix_spawn one after the other.

As all programs here: a line on standard input holds the commands (a list of groups, each
name to command), "ready" is the answer; the next line holds the instants (one per group, in
nanoseconds since 1970), "taken" is the answer; the end of the input is the end.
"""

import json
import os
import sys
import time

groups = json.loads(sys.stdin.readline())
print("ready", flush=True)
instants = json.loads(sys.stdin.readline())
print("taken", flush=True)
for at_ns, commands in sorted(zip(instants, map(dict.values, groups), strict=True)):
    time.sleep(max(0, at_ns - time.time_ns()) / 1e9)
    for command in commands:
        os.posix_spawn(command[0], command, os.environ)
sys.stdin.read()
