#!/bin/sh
# Builds dist/geosched_VERSION_all.deb and has lintian look at it: on this host where that has what
# Build-Depends of `control` names, else, as root, in a tree of Debian that debootstrap makes.
#
#   TREE    where that tree is kept for the next time (build/deb/trixie)
#   MIRROR  where its packages come from (what this host's apt has for Debian)
set -eu

HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
ROOT=$(CDPATH='' cd -- "$HERE/../.." && pwd)
SUITE=trixie
WORK=$ROOT/build/deb
TREE=${TREE-$WORK/$SUITE}
SOURCES="__init__.py py.typed ipc workers supervisor deploy docs
    pyproject.toml setup.cfg README.md CHANGELOG.md LICENSE"

fail() {
    echo "make deb: cannot build the package: $*" >&2
    exit 2
}

# copy_sources DIRECTORY: the tree as a source of Debian's, with its debian/.
copy_sources() {
    rm -rf "$1"
    mkdir -p "$1"
    for name in $SOURCES; do
        cp -R "$ROOT/$name" "$1/"
    done
    find "$1" -name __pycache__ -prune -exec rm -rf {} +
    mv "$1/deploy/debian" "$1/debian"
    rm "$1/debian/build.sh"
}

# What `build` needs beside Build-Depends.
TOOLS="dpkg-dev, lintian"
build_depends() {
    sed -n '/^Build-Depends:/,/^[^ ]/{/^ /p}' "$HERE/control" | tr -d '\n'
}

# Builds in the directory $1. As long as there are no pages for man, lintian does not miss them.
# shellcheck disable=SC2016 # expanded by the shell that runs it
BUILD='set -eu
cd "$1"
dpkg-buildpackage --build=binary --no-sign --no-check-builddeps
[ -d deploy/man ] || without="--suppress-tags no-manual-page"
lintian --allow-root --fail-on error,warning ${without-} ../geosched_*_all.deb'

lacking() {
    [ "$(id -u)" = 0 ] || echo "root's rights"
    for command in debootstrap unshare chroot; do
        command -v "$command" >/dev/null || echo "$command"
    done
}

make_tree() {
    echo "making a tree of Debian $SUITE in $TREE"
    # shellcheck disable=SC2016 # expanded by apt
    : "${MIRROR:=$(apt-get indextargets --format '$(SITE)' 2>/dev/null | grep -m 1 '/debian/*$' || true)}"
    rm -rf "$TREE.tmp"
    mkdir -p "$(dirname "$TREE")"
    debootstrap --variant=minbase "$SUITE" "$TREE.tmp" "${MIRROR:-http://deb.debian.org/debian}" \
        >"$WORK/debootstrap.log" 2>&1 ||
        fail "debootstrap failed: $(tail -n 1 "$WORK/debootstrap.log") ($WORK/debootstrap.log)"
    apt-config dump --format '%f "%v";%n' 2>/dev/null | grep '::Proxy' \
        >"$TREE.tmp/etc/apt/apt.conf.d/99host" || true
    echo force-unsafe-io >"$TREE.tmp/etc/dpkg/dpkg.cfg.d/unsafe-io" # it need not survive a power cut
    mv "$TREE.tmp" "$TREE"
}

# in_tree COMMAND...: run there, with its own /proc; what it leaves running ends with it.
# shellcheck disable=SC2016 # expanded by the inner shell
in_tree() {
    unshare --mount --pid --fork --kill-child /bin/sh -eu -c '
        mount -t proc proc "$1/proc"
        exec chroot "$@"
    ' sh "$TREE" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive ${http_proxy+"http_proxy=$http_proxy"} "$@"
}

mkdir -p "$WORK" "$ROOT/dist"
if command -v lintian >/dev/null && dpkg-checkbuilddeps "$HERE/control" 2>/dev/null; then
    place=$(mktemp -d) # debhelper minds blanks in a path
    trap 'rm -rf "$place"' EXIT
    copy_sources "$place/geosched"
    sh -c "$BUILD" sh "$place/geosched"
else
    missing=$(lacking | paste -s -d ,)
    [ -z "$missing" ] || fail "this host has not all of $(build_depends), $TOOLS; and a tree of Debian that has needs $missing"
    [ -d "$TREE" ] || make_tree
    in_tree apt-get -qq update
    in_tree apt-get -qq -o Dpkg::Use-Pty=0 satisfy --no-install-recommends "$(build_depends), $TOOLS" >"$WORK/apt.log" 2>&1 ||
        fail "apt failed: $(tail -n 1 "$WORK/apt.log") ($WORK/apt.log)"
    place=$TREE/build
    rm -rf "$place"
    copy_sources "$place/geosched"
    in_tree sh -c "$BUILD" sh /build/geosched
fi
cp "$place"/geosched_*_all.deb "$ROOT/dist/"
echo "dist/$(cd "$place" && echo geosched_*_all.deb)"
