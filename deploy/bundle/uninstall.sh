#!/bin/sh
# Removes what install.sh of the bundle has put on this host. Configuration, database and logs stay,
# and files that were changed since.
#
#   DESTDIR  put before every path, as it was for install.sh
set -eu

PREFIX=/opt/geosched # install.sh writes its own here
DESTDIR=${DESTDIR-}
own=$DESTDIR$PREFIX/lib/geosched

fail() {
    echo "uninstall.sh: cannot remove geosched: $*" >&2
    exit 2
}

[ -f "$own/installed" ] || fail "there is no list of what was installed, $own/installed"
if [ -z "$DESTDIR" ]; then
    ! "$PREFIX/bin/geosched-ctl" --timeout 5 ping >/dev/null 2>&1 || fail "its daemon runs: stop it first"
    [ ! -d /run/systemd/system ] || systemctl --quiet disable geosched || true
    ! command -v update-rc.d >/dev/null || [ -d /run/systemd/system ] || update-rc.d geosched disable || true
    ! command -v rc-update >/dev/null || rc-update --quiet del geosched || true
fi
while read -r line; do
    file=${line#*  .}
    if [ ! -e "$DESTDIR$file" ]; then
        continue
    elif (cd "${DESTDIR:-/}" && echo "$line" | sha256sum --status -c -); then
        rm -f "$DESTDIR$file"
        echo "removed $DESTDIR$file"
    else
        echo "kept    $DESTDIR$file, which was changed"
    fi
done <"$own/installed"
rm -rf "$own/python" "$own/python.new" "$own/python.old" "$own/installed" "$own/uninstall.sh"
echo "removed $own/python"
case $PREFIX in
    /usr | /usr/local) shared= ;;
    *) shared="bin share lib ." ;;
esac
for directory in lib/geosched/scripts lib/geosched share/geosched $shared; do
    directory=$DESTDIR$PREFIX/$directory
    [ ! -d "$directory" ] || rmdir --ignore-fail-on-non-empty "${directory%/.}"
done
[ ! -d /run/systemd/system ] || [ -n "$DESTDIR" ] || systemctl daemon-reload
