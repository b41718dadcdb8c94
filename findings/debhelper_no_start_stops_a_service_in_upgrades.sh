#!/bin/sh
# dh_installsystemd --no-start stops a service in each upgrade, and leaves it so.
#
# One would guess: with --no-start, whose page says "do not start the unit file after upgrades and
# after initial installation", the package leaves a service as it is, or it restarts what ran.
# True: the new package's preinst stops it in an upgrade, and nothing starts it again; prerm does
# not stop it in a removal. With --no-stop-on-upgrade beside it no line about it is left at all: who
# wants "restart what ran" writes that by hand.
#
# Seen: debhelper 13.24.2 (Debian 13), compat 13. It needs debhelper, and installs nothing.
set -eu

here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
cd "$here"
mkdir debian
printf 'Source: xx\nBuild-Depends: debhelper-compat (= 13)\n\nPackage: xx\nArchitecture: all\nDescription: x\n' >debian/control
printf 'xx (1) unstable; urgency=low\n\n  * x\n\n -- X <x@x.invalid>  Mon, 23 Nov 2026 00:00:00 +0000\n' >debian/changelog
printf '[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n' >debian/xx.service

# What the scripts of the package say to the service, as `script:action`.
said() {
    dh_clean
    dh_installsystemd "$@"
    for script in preinst postinst prerm; do
        grep -ho "deb-systemd-invoke [a-z\$_]*" debian/.debhelper/generated/xx/"$script.service" \
            debian/xx."$script.debhelper" 2>/dev/null |
            sed "s/deb-systemd-invoke /$script:/"
    done | sort -u | paste -s -d ' '
}
found="without start: $(said --no-start); nor stop: $(said --no-start --no-stop-on-upgrade)"
echo "debhelper $(dpkg-query -W -f '${Version}' debhelper), $found"
case $found in
    "without start: preinst:stop; nor stop: ") echo "as written" ;;
    *) echo "changed"; exit 1 ;;
esac
