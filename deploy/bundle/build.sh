#!/bin/sh
# Builds dist/geosched-VERSION-bundle-ARCH.tar.gz: geosched and what it needs as wheels, for every
# Python named here, with an install.sh that needs no network, no pip and no compiler.
#
#   PYTHON  with pip and setuptools, for the wheel of geosched (.venv/bin/python)
#   ARCH    of the hosts, as `uname -m` says it there (this machine's)
set -eu

HERE=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
ROOT=$(CDPATH='' cd -- "$HERE/../.." && pwd)
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
ARCH=${ARCH:-$(uname -m)}
PYTHONS="3.11 3.12 3.13 3.14"

fail() {
    echo "make bundle: cannot build the bundle: $*" >&2
    exit 2
}

version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$ROOT/__init__.py")
name=geosched-$version
work=$ROOT/build/bundle
top=$work/$name
rm -rf "$work"
mkdir -p "$top/wheels/any" "$ROOT/dist"

# What is pinned, by its hashes, as any glibc from 2.28 on takes it.
platforms=
for tag in manylinux_2_28 manylinux_2_27 manylinux_2_26 manylinux_2_24 manylinux_2_17 manylinux2014 \
    manylinux_2_12 manylinux2010 manylinux_2_5 manylinux1; do
    platforms="$platforms --platform ${tag}_$ARCH"
done
for minor in $PYTHONS; do
    mkdir -p "$work/$minor" "$top/wheels/$minor"
    # shellcheck disable=SC2086 # several options
    "$PYTHON" -m pip download --quiet --disable-pip-version-check --dest "$work/$minor" $platforms \
        --python-version "$minor" --implementation cp --only-binary :all: --no-deps \
        --require-hashes --requirement "$ROOT/requirements/daemon.txt" ||
        fail "not all that is pinned is there as wheels for Python $minor on $ARCH"
    for wheel in "$work/$minor"/*.whl; do
        case $wheel in
            *-none-any.whl) mv -f "$wheel" "$top/wheels/any/" ;;
            *) mv "$wheel" "$top/wheels/$minor/" ;;
        esac
    done
done
(cd "$ROOT" && "$PYTHON" -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps \
    --wheel-dir "$top/wheels/any" .)

# install.sh unpacks wheels and no more: what has to be moved to another place would be lost.
"$PYTHON" - "$top"/wheels/*/*.whl <<'CHECK'
import sys
import zipfile

for wheel in sys.argv[1:]:
    if "/geosched-" not in wheel and any(".data/" in name for name in zipfile.ZipFile(wheel).namelist()):
        sys.exit(f"make bundle: cannot use {wheel}: it has files for other places")
CHECK

cp "$HERE/install.sh" "$HERE/uninstall.sh" "$ROOT/LICENSE" "$top/"
mkdir "$top/deploy"
for each in "$ROOT"/deploy/*; do
    case $each in */debian | */bundle) ;; *) cp -R "$each" "$top/deploy/" ;; esac
done
tarball=dist/$name-bundle-$ARCH.tar.gz
tar -C "$work" --sort=name --owner=root:0 --group=root:0 --mode=u+w,go=u-w -czf "$ROOT/$tarball" "$name"
echo "$tarball"
