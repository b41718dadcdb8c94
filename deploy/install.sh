#!/bin/sh
# Installs what belongs to geosched on a host beside the Python package: the action scripts, and
# what the host's init needs. Starts and enables nothing, and writes no configuration
# (`geosched-ctl init` does). May be run again at any time: files of the operator stay.
#
#   PREFIX      where the commands are (/usr: /usr/bin/geoschedd)
#   SYSCONFDIR  where the configuration is, and what the init reads (/etc)
#   DESTDIR     put before every path, for packages and images
#   INIT        systemd, openrc, sysv, runit, s6, procd, none; otherwise this host's
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

# By what runs, and only then by what is there: hosts have tools of inits that they do not use.
this_init() {
    read -r first </proc/1/comm || first=
    if [ -d /run/systemd/system ]; then
        echo systemd
    elif [ "$first" = procd ]; then
        echo procd
    elif [ "$first" = runit ] || [ "$first" = runsvdir ]; then
        echo runit
    elif [ "$first" = s6-svscan ]; then
        echo s6
    elif [ -d /run/openrc ] || [ -x /sbin/openrc-run ]; then
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

# Where systemd looks: below a private prefix it finds nothing.
unit_directory() {
    case $PREFIX in
        /usr | /usr/local) echo "$PREFIX/lib/systemd/system" ;;
        *) echo "$SYSCONFDIR/systemd/system" ;;
    esac
}

: "${INIT:=$(this_init)}"
case $INIT in
    systemd)
        put 0644 systemd/geosched.service "$(unit_directory)/geosched.service"
        put 0644 systemd/hardened.conf "$PREFIX/share/geosched/hardened.conf"
        put_once 0644 tmpfiles.d/geosched.conf "$SYSCONFDIR/tmpfiles.d/geosched.conf"
        ;;
    openrc)
        put 0755 openrc/geosched "$SYSCONFDIR/init.d/geosched"
        put_once 0644 openrc/geosched.confd "$SYSCONFDIR/conf.d/geosched"
        put_once 0644 logrotate/geosched "$SYSCONFDIR/logrotate.d/geosched"
        ;;
    sysv)
        put 0755 init.d/geosched "$SYSCONFDIR/init.d/geosched"
        put_once 0644 default/geosched "$SYSCONFDIR/default/geosched"
        put_once 0644 logrotate/geosched "$SYSCONFDIR/logrotate.d/geosched"
        put 0644 inittab.example "$PREFIX/share/geosched/inittab.example"
        ;;
    runit | s6)
        # Both look below /etc by custom, and each wants directories of its own.
        [ "$INIT" = runit ] && place=$SYSCONFDIR/sv/geosched || place=$SYSCONFDIR/s6/sv/geosched
        put 0755 "$INIT/run" "$place/run"
        put 0755 "$INIT/finish" "$place/finish"
        put 0755 "$INIT/log/run" "$place/log/run"
        [ "$INIT" = runit ] || put 0644 s6/timeout-finish "$place/timeout-finish"
        ;;
    procd) put 0755 procd/geosched "$SYSCONFDIR/init.d/geosched" ;;
    none)
        put 0644 inittab.example "$PREFIX/share/geosched/inittab.example"
        put_once 0644 logrotate/geosched "$SYSCONFDIR/logrotate.d/geosched"
        ;;
    *) fail "cannot use INIT=$INIT: not one of systemd, openrc, sysv, runit, s6, procd, none" ;;
esac
put 0755 scripts/block-apps "$PREFIX/lib/geosched/scripts/block-apps"
put 0644 geosched.example.toml "$PREFIX/share/geosched/geosched.example.toml"

config=$SYSCONFDIR/geosched/geosched.toml
[ -e "$DESTDIR$config" ] || echo "next: $PREFIX/bin/geosched-ctl init, which writes $config,"
echo "then \`$PREFIX/bin/geoschedd --check\`, and enable the service (deploy/README.md)"
