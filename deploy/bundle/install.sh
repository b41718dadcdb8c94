#!/bin/sh
# Installs geosched with all that it needs, and what this host's init needs; no network, no pip.
# For hosts with Python 3.11 or later and glibc 2.28 or later. Starts and enables nothing; a
# configuration that is there is not touched. May be run over an older version.
#
#   ./install.sh [PREFIX]   where to (/opt/geosched: /opt/geosched/bin/geoschedd)
#
#   PYTHON      the interpreter (python3), by a name that goes on to be there
#   SYSCONFDIR, DESTDIR, INIT as in deploy/install.sh
#
# The libraries are below PREFIX/lib/geosched/python, an environment by pyvenv.cfg (PEP 405) with
# packages for each Python of the bundle: when the host's python3 becomes a later one, the next start
# takes the packages of that. PREFIX/lib/geosched/uninstall.sh removes what is installed here.
set -eu
umask 022

HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
PREFIX=${1-${PREFIX-/opt/geosched}}
SYSCONFDIR=${SYSCONFDIR-/etc}
DESTDIR=${DESTDIR-}
export PREFIX SYSCONFDIR DESTDIR

fail() {
    echo "install.sh: cannot install geosched: $*" >&2
    exit 2
}

case $PREFIX in
    *[!A-Za-z0-9/._-]*) fail "PREFIX '$PREFIX' has a character that is not one of A-Z a-z 0-9 / . _ -" ;;
    /*) ;;
    *) fail "PREFIX '$PREFIX' is not an absolute path" ;;
esac
python=$(command -v "${PYTHON:-python3}") || fail "there is no ${PYTHON:-python3}"
# By that name, which a later Python will have, but for a script or a venv that stands before one.
python=$("$python" -c 'import os, sys
base, given = sys._base_executable, sys.argv[1]
same = os.path.realpath(base) == os.path.realpath(given) and sys.prefix == sys.base_prefix
print(given if same else base)' "$python")
minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ -d "$HERE/wheels/$minor" ] ||
    fail "$python is Python $minor, and this is for $(cd "$HERE/wheels" && echo [0-9]*)"

if [ -z "$DESTDIR" ] && "$PREFIX/bin/geosched-ctl" --timeout 5 ping >/dev/null 2>&1; then
    fail "its daemon runs, and would load half of the old libraries and half of the new: stop it first"
fi

libraries=$PREFIX/lib/geosched/python
new=$DESTDIR$libraries.new
rm -rf "$new" "$DESTDIR$libraries.old"
mkdir -p "$new/bin" "$new/lib/any"
ln -s "$python" "$new/bin/python3"
printf 'home = %s\ninclude-system-site-packages = false\n' "$(dirname "$python")" >"$new/pyvenv.cfg"
unpack() {
    for wheel in "$HERE/wheels/$1"/*.whl; do
        "$python" -m zipfile -e "$wheel" "$2"
    done
}
unpack any "$new/lib/any"
rm -rf "$new"/lib/any/*.data # what deploy/install.sh puts in place
for each in "$HERE"/wheels/[0-9]*; do
    packages=$new/lib/python${each##*/}/site-packages
    mkdir -p "$packages"
    unpack "${each##*/}" "$packages"
    echo ../../any >"$packages/geosched.pth"
done
"$new/bin/python3" -c 'import geosched.supervisor.daemon, lmdb, zmq, msgspec, requests' ||
    fail "its libraries cannot be loaded here: is this host not $(uname -m), or its glibc older than 2.28?"
"$python" -m compileall -q "$new/lib/any" "$new/lib/python$minor"

# launcher COMMAND MODULE
launcher() {
    target=$DESTDIR$PREFIX/bin/$1
    mkdir -p "$(dirname "$target")"
    cat >"$target.new" <<PYTHON
#!$libraries/bin/python3
import sys
from importlib.util import find_spec

if find_spec("geosched") is None:
    version = "%d.%d" % sys.version_info[:2]
    sys.exit(f"cannot run $1: what is installed in $libraries has nothing for Python {version}")
from $2 import main

main()
PYTHON
    chmod 0755 "$target.new"
    mv -f "$target.new" "$target"
    echo "installed $target"
}

[ ! -d "$DESTDIR$libraries" ] || mv "$DESTDIR$libraries" "$DESTDIR$libraries.old"
mv "$new" "$DESTDIR$libraries"
rm -rf "$DESTDIR$libraries.old"
echo "installed $DESTDIR$libraries"

own=$DESTDIR$PREFIX/lib/geosched
said=$(
    launcher geoschedd geosched.supervisor.daemon
    launcher geosched-ctl geosched.ipc.ctl.main
    "$HERE/deploy/install.sh"
)
echo "$said"
# What uninstall.sh removes: each file as it was put, so that one which was changed since is kept;
# and no configuration.
echo "$said" | sed -n "s|^installed ||p" | grep -v "^$DESTDIR$SYSCONFDIR/geosched/" | while read -r file; do
    (cd "${DESTDIR:-/}" && sha256sum ".${file#"$DESTDIR"}")
done >"$own/installed.new"
# Of an earlier version, what is still there and was not put anew.
if [ -f "$own/installed" ]; then
    while read -r sum file; do
        sed 's/^[^ ]*  //' "$own/installed.new" | grep -qxF "$file" || echo "$sum  $file"
    done <"$own/installed" >"$own/installed.old"
    cat "$own/installed.old" >>"$own/installed.new"
    rm "$own/installed.old"
fi
mv "$own/installed.new" "$own/installed"
sed -e "s|^PREFIX=.*|PREFIX=$PREFIX|" "$HERE/uninstall.sh" >"$own/uninstall.sh.new"
chmod 0755 "$own/uninstall.sh.new"
mv -f "$own/uninstall.sh.new" "$own/uninstall.sh"
echo "to remove all of this: $PREFIX/lib/geosched/uninstall.sh"
