"""The tests at both ends of every bound of pyproject.toml (`make test-bounds`).

An environment for each Python and each set of releases: the oldest of each library that is allowed,
the newest, and those named in the files beside this one. What there is no wheel for is built. It
ends with a table, which is also in build/bounds/table.md, and fails if a test of any failed.
"""

import argparse
import glob
import io
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BUILD = ROOT / "build/bounds"
PYTHONS = ("3.11", "3.13")
#: Of the dev extra what these tests need.
TOOLS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "trustme", "setuptools")
SUITES = {
    "unit": "tests/unit",
    "store": "tests/integration/store",
    "acceptance": "tests/acceptance",
}
INSTALL_SECONDS_MAX = 1200
TESTS_SECONDS_MAX = 2400
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class NotInstalledError(Exception):
    """A set of releases does not install on a Python."""


@dataclass
class Outcome:
    """What became of the tests with one set of releases on one Python."""

    python: str
    releases: str
    versions: dict[str, str] = field(default_factory=dict)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    failed: str = ""
    minutes: float = 0.0


# --- what is asked for -------------------------------------------------------------------


def asked() -> list[Requirement]:
    """What pyproject.toml asks for to run with, tables included."""
    return [
        Requirement(each)
        for each in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["tables"])
    ]


def oldest(requirement: Requirement) -> str:
    """Return a constraint to the lower bound itself."""
    (lower,) = (each for each in requirement.specifier if each.operator == ">=")
    return f"{requirement.name}=={lower.version}"


def constraints_of(releases: str) -> list[str]:
    """Return the constraints on what pyproject.toml asks for; none for the newest."""
    if releases == "newest":
        return []
    if releases == "oldest":
        return [oldest(each) for each in asked()]
    lines = (HERE / f"{releases}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pins_of_others() -> list[str]:
    """Return the pins of requirements/dev.txt for all that has no bound in pyproject.toml."""
    bounded = {canonicalize_name(each.name) for each in asked()}
    found = re.findall(r"^([\w.-]+)(?:\[.*\])?==(\S+)", _text("requirements/dev.txt"), re.MULTILINE)
    return [f"{name}=={version}" for name, version in found if name not in bounded]


def _text(path: str) -> str:
    return (ROOT / path).read_text()


# --- an environment ----------------------------------------------------------------------


def python_of(name: str) -> str:
    """Return the path of a Python: one that is given, or one of that version."""
    if os.sep in name:
        return name
    own = sorted(glob.glob(str(Path.home() / f".pyenv/versions/{name}*/bin/python")))
    found = own[-1] if own else shutil.which(f"python{name}")
    if found is None:
        raise SystemExit(f"cannot find Python {name}: give its path in PYTHONS")
    return found


def make_environment(python: str, releases: str) -> Path:
    """Make an environment with a set of releases and the tree under test; return its Python.

    Raises `NotInstalledError`.
    """
    version = _output(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
    place = BUILD / f"{version}-{releases}"
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    constraints = BUILD / f"{version}-{releases}.txt"
    constraints.write_text("\n".join([*constraints_of(releases), *pins_of_others(), ""]))
    _install_with(python, "-m", "venv", place)
    own = place / "bin/python"
    pip = (own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    _install_with(*pip, "--constraint", constraints, *map(str, asked()), *TOOLS)
    _install_with(*pip, "--no-deps", "--no-build-isolation", "--editable", ROOT)
    if _output(own, "-c", "import lmdb; print(hasattr(lmdb.Environment, 'lib_version'))") != "True":
        _lay_a_verifier_beside(own, place)
    return own


def _lay_a_verifier_beside(own: Path, place: Path) -> None:
    """Install the verifier of a later py-lmdb as `lmdb_verify`, for the tests alone: they learn
    from it which page of a sound file holds what."""
    (pinned,) = re.findall(r"^lmdb==\S+", _text("requirements/daemon.txt"), re.MULTILINE)
    wheels = place / "wheels"
    download = ("pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:")
    _install_with(own, "-m", *download, "--dest", wheels, pinned)
    (wheel,) = wheels.iterdir()
    libraries = _output(own, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    with zipfile.ZipFile(wheel) as packed:
        Path(libraries, "lmdb_verify.py").write_bytes(packed.read("lmdb/verify.py"))


def versions_in(own: Path) -> dict[str, str]:
    listed = _output(own, "-m", "pip", "list", "--format", "freeze", "--disable-pip-version-check")
    known = dict(line.split("==") for line in listed.splitlines() if "==" in line)
    there = {canonicalize_name(name): version for name, version in known.items()}
    return {each.name: there[canonicalize_name(each.name)] for each in asked()}


def _install_with(*command: object) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS_MAX,
        check=False,
    )
    if done.returncode:
        raise NotInstalledError("\n".join((done.stdout + done.stderr).splitlines()[-40:]))


def _output(*command: object) -> str:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=60, check=True
    ).stdout.strip()


# --- the tests ---------------------------------------------------------------------------


def try_releases(python: str, releases: str, suites: Sequence[str], jobs: int) -> Outcome:
    begun = time.monotonic()
    version = _output(python, "-c", "import platform; print(platform.python_version())")
    outcome = Outcome(version, releases)
    try:
        own = make_environment(python, releases)
    except NotInstalledError as error:
        outcome.failed = "does not install"
        print(error)
        return outcome
    outcome.versions = versions_in(own)
    print(*(f"{name} {found}" for name, found in outcome.versions.items()), sep=", ", flush=True)
    report = own.parents[1] / "report.xml"
    code = subprocess.run(
        [
            *(str(own), "-m", "pytest", "--quiet", "--numprocesses", str(jobs), "--dist"),
            *("worksteal", "-m", "not alone", f"--junitxml={report}"),
            *(SUITES[suite] for suite in suites),
        ],
        cwd=ROOT,
        timeout=TESTS_SECONDS_MAX,
        check=False,
    ).returncode
    outcome.failed = f"pytest left with {code}" if code else ""
    outcome.counts = counts_in(report.read_text(), suites) if report.exists() else {}
    outcome.minutes = (time.monotonic() - begun) / 60
    return outcome


def counts_in(report: str, suites: Iterable[str]) -> dict[str, Counter[str]]:
    """Count what passed, failed and was skipped in a report of JUnit's form, by suite."""
    counts: dict[str, Counter[str]] = {suite: Counter() for suite in suites}
    for case in ElementTree.parse(io.StringIO(report)).iter("testcase"):
        path = case.get("classname", "").replace(".", "/")
        suite = next(each for each in counts if path.startswith(SUITES[each]))
        ended = {child.tag for child in case}
        failed = ended & {"failure", "error"}
        counts[suite]["failed" if failed else "skipped" if "skipped" in ended else "passed"] += 1
    return counts


def table_of(outcomes: Sequence[Outcome], suites: Sequence[str]) -> str:
    names = [each.name for each in asked()]
    rows = [["Python", "releases", *names, *suites, "minutes"]]
    for each in outcomes:
        versions = [each.versions.get(name, "") for name in names]
        told = [_told(each.counts.get(suite, Counter())) for suite in suites]
        minutes = each.failed or f"{each.minutes:.0f}"
        rows.append([each.python, each.releases, *versions, *told, minutes])
    rows.insert(1, ["---"] * len(rows[0]))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _told(counts: Counter[str]) -> str:
    named = [f"{counts['passed']}"]
    named += [f"{counts[word]} {word}" for word in ("failed", "skipped") if counts[word]]
    return ", ".join(named)


def main() -> None:
    beside = [path.stem for path in sorted(HERE.glob("*.txt"))]
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--pythons", nargs="*", metavar="VERSION or PATH")
    parser.add_argument("--releases", nargs="*", choices=["oldest", *beside, "newest"])
    parser.add_argument("--suites", nargs="*", choices=[*SUITES])
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    suites = options.suites or [*SUITES]
    outcomes = []
    for python in map(python_of, options.pythons or PYTHONS):
        for releases in options.releases or ["oldest", *beside, "newest"]:
            print(f"--- {python}, {releases}", flush=True)
            outcomes.append(try_releases(python, releases, suites, options.jobs))
            table = table_of(outcomes, suites)
            (BUILD / "table.md").write_text(table)
    print(table)
    sys.exit(any(each.failed for each in outcomes))


if __name__ == "__main__":
    main()
