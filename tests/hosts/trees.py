"""Trees of hosts by debootstrap: made once, below `HOSTS_DIR`, and copied for each trial."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .commands import need, run

ROOT = Path(__file__).resolve().parents[2]
PLACE = Path(os.environ.get("HOSTS_DIR") or ROOT / "build/hosts").absolute()
DEBOOTSTRAP_SECONDS_MAX = 1200
APT_SECONDS_MAX = 900
#: In a tree: the checkout, and wheels of what it needs, so that a host without a network installs.
CHECKOUT = Path("/root/geosched")
WHEELS = Path("/root/wheels")
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: No daemon of a package is started while its tree is made.
_POLICY = "#!/bin/sh\nexit 101\n"


def base(suite: str) -> Path:
    """The smallest tree of a suite."""
    place = PLACE / f"base-{suite}"
    if place.exists():
        return place
    need("debootstrap")
    made = place.with_suffix(".tmp")
    shutil.rmtree(made, ignore_errors=True)
    PLACE.mkdir(parents=True, exist_ok=True)
    # Its mounts are its own, and gone with it.
    command = ("unshare", "--mount", "debootstrap", "--variant=minbase")
    run(*command, suite, made, seconds=DEBOOTSTRAP_SECONDS_MAX)
    made.rename(place)
    return place


def tree(name: str, suite: str, packages: Sequence[str]) -> Path:
    """A tree with these packages."""
    place = PLACE / f"tree-{name}"
    if place.exists():
        return place
    made = place.with_suffix(".tmp")
    copied(base(suite), made)
    policy = made / "usr/sbin/policy-rc.d"
    policy.write_text(_POLICY)
    policy.chmod(0o755)
    # A tree that a power cut spoils is made anew: nothing waits for the disk.
    (made / "etc/dpkg/dpkg.cfg.d/trial").write_text("force-unsafe-io\n")
    words = " ".join(packages)
    chroot(made, "apt-get -q update", seconds=APT_SECONDS_MAX)
    options = "-q -y --no-install-recommends -o Dpkg::Options::=--force-confnew"
    chroot(
        made, f"apt-get install {options} --allow-remove-essential {words}", seconds=APT_SECONDS_MAX
    )
    chroot(made, "apt-get clean")
    policy.unlink()
    made.rename(place)
    return place


def chroot(place: Path, command: str, *, seconds: float = 60) -> str:
    """Run a shell command in a tree, with the network and the names of this machine."""
    for name in ("resolv.conf", "hosts"):
        (place / "etc" / name).unlink(missing_ok=True)
        shutil.copy(Path("/etc") / name, place / "etc" / name)
    quoted = shlex.quote(str(place))
    inside = f'mount -t proc proc {quoted}/proc && exec chroot {quoted} /bin/sh -c "$0"'
    isolated = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "env", "-i")
    variables = ("DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8", "HOME=/root", PATH)
    return run(*isolated, *variables, "sh", "-c", inside, command, seconds=seconds)


@contextmanager
def copy(source: Path, name: str) -> Iterator[Path]:
    """A tree of a trial's own, gone with it."""
    place = PLACE / f"trial-{name}"
    copied(source, place)
    try:
        yield place
    finally:
        shutil.rmtree(place)


def copied(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    run("cp", "--archive", "--reflink=auto", source, target, seconds=300)


def give_checkout(place: Path) -> None:
    """Put the tree under test into the tree of a host."""
    target = place / CHECKOUT.relative_to("/")
    target.mkdir(parents=True)
    names = run("git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def give_wheels(place: Path, python: str) -> None:
    """Put what a host without a network installs into its tree."""
    shutil.copytree(wheels(python), place / WHEELS.relative_to("/"))


def wheels(python: str) -> Path:
    """Wheels of what is pinned, and of what builds ours, for a version of Python."""
    place = PLACE / f"wheels-{python}"
    if not place.exists():
        made = place.with_suffix(".tmp")
        download = (sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:")
        fit = ("--python-version", python, "--implementation", "cp", "--dest", made)
        run(*download, *fit, "-r", ROOT / "requirements/daemon.txt", seconds=600)
        run(*download, *fit, "setuptools>=64", "wheel", seconds=600)
        made.rename(place)
    return place
