#!/bin/sh
# setproctitle does nothing in a process that was executed with an empty environment.
#
# One would guess: setproctitle() sets the title, or raises; its memory is that of the command
# line, which every process has.
# True: it finds the command line by going back from the first variable of the environment. A
# process that was executed without any (a careful supervisor, `env -i`) keeps ps(1)'s title and
# its name in the kernel, and no call says so: getproctitle() gives the old command line. One
# variable, of whatever length, is enough. Python hides it at times: in a C locale it sets
# LC_CTYPE by itself, for its children, too.
#
# Seen: setproctitle 1.3.8, Python 3.11.7, Linux 6.18.
set -eu

here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cd "$here"
python3 -m venv venv
venv/bin/python -m pip install -q --disable-pip-version-check setproctitle==1.3.8
cat > name.py <<'PYTHON'
import setproctitle

setproctitle.setproctitle("a title")
with open("/proc/self/cmdline", "rb") as file:
    print("set" if file.read().startswith(b"a title\0") else "not set")
PYTHON
found="without: $(env -i venv/bin/python -I name.py), with: $(env -i A= venv/bin/python -I name.py)"
echo "one variable in the environment, $found"
case $found in
    "without: not set, with: set") echo "as written" ;;
    *) echo "changed"; exit 1 ;;
esac
