#!/bin/sh
# Installs what belongs to geosched on a host beside the Python package: the action scripts,
# the configuration, and what the host's init needs. Starts and enables nothing. May be run
# again at any time: a configuration that is there is never touched.
#
#   PREFIX      where the commands are (/usr: /usr/bin/geoschedd)
#   SYSCONFDIR  where the configuration goes (/etc)
#   DESTDIR     put before every path, for packages and images
#   INIT        systemd, openrc, sysv, none; otherwise this host's
set -eu
# Whatever whoever installs has: directories for everybody to read, and for nobody else to write.
umask 022

PREFIX=${PREFIX-/usr}
SYSCONFDIR=${SYSCONFDIR-/etc}
DESTDIR=${DESTDIR-}
INIT=${INIT-}
HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

fail() {
    echo "install.sh: $*" >&2
    exit 2
}

for path in "$PREFIX" "$SYSCONFDIR"; do
    case $path in
        *[!A-Za-z0-9/._-]*) fail "cannot use '$path': a character that is not one of A-Z a-z 0-9 / . _ -" ;;
        /*) ;;
        *) fail "cannot use '$path': not an absolute path" ;;
    esac
done

this_init() {
    if [ -d /run/systemd/system ]; then
        echo systemd
    elif [ -x /sbin/openrc-run ]; then
        echo openrc
    elif command -v start-stop-daemon >/dev/null && [ -d /etc/init.d ]; then
        echo sysv
    else
        echo none
    fi
}

# put MODE SOURCE TARGET: with the paths of this installation, and never half.
put() {
    target=$DESTDIR$3
    mkdir -p "$(dirname "$target")"
    rm -f "$target.new" # and with `set -C` the shell makes it anew: it writes through no link
    set -C
    sed -e "s|/usr/bin/geosched|$PREFIX/bin/geosched|g" \
        -e "s|/usr/lib/geosched|$PREFIX/lib/geosched|g" \
        -e "s|/etc/geosched|$SYSCONFDIR/geosched|g" \
        -e "s|/etc/default/geosched|$SYSCONFDIR/default/geosched|g" \
        "$HERE/$2" >"$target.new"
    set +C
    chmod "$1" "$target.new"
    mv -f "$target.new" "$target"
    echo "installed $target"
}

# put_once: for files that are the operator's from then on.
put_once() {
    if [ -e "$DESTDIR$3" ] || [ -L "$DESTDIR$3" ]; then
        echo "kept      $DESTDIR$3"
    else
        put "$@"
    fi
}

: "${INIT:=$(this_init)}"
case $INIT in
    systemd)
        put 0644 systemd/geosched.service "$PREFIX/lib/systemd/system/geosched.service"
        put 0644 systemd/hardened.conf "$PREFIX/share/geosched/hardened.conf"
        put_once 0644 tmpfiles.d/geosched.conf "$SYSCONFDIR/tmpfiles.d/geosched.conf"
        ;;
    openrc) put 0755 openrc/geosched "$SYSCONFDIR/init.d/geosched" ;;
    sysv)
        put 0755 init.d/geosched "$SYSCONFDIR/init.d/geosched"
        put_once 0644 default/geosched "$SYSCONFDIR/default/geosched"
        put_once 0644 logrotate/geosched "$SYSCONFDIR/logrotate.d/geosched"
        ;;
    none) put 0644 inittab.example "$PREFIX/share/geosched/inittab.example" ;;
    *) fail "cannot use INIT=$INIT: not one of systemd, openrc, sysv, none" ;;
esac
put 0755 scripts/block-apps "$PREFIX/lib/geosched/scripts/block-apps"
put 0644 geosched.example.toml "$PREFIX/share/geosched/geosched.example.toml"
# Readable for all: geosched-ctl finds the daemon by it. Secrets have a file of their own.
put_once 0644 geosched.example.toml "$SYSCONFDIR/geosched/geosched.toml"

echo "next: set backend.url in $SYSCONFDIR/geosched/geosched.toml, run \`$PREFIX/bin/geoschedd --check\`,"
echo "then enable the service (deploy/README.md)"
