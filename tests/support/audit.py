"""Known vulnerabilities of pinned requirements, by pip-audit; also said where it could not look.

    python -P tests/support/audit.py PIP-AUDIT REQUIREMENTS...

Exit 0: none is known. 1: some are, and they are listed. 2: nothing is known, because nobody
answered; that is no good news.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

NONE, FOUND, UNTRIED = range(3)
#: Who knows of vulnerabilities; the second is asked where the first does not answer.
SERVICES = ("pypi", "osv")
SECONDS_MAX = 600


def main(tool: str, requirements: Sequence[str]) -> int:
    """Look each file up, and print what came of it."""
    outcome = NONE
    for path in requirements:
        looked_up = look_up(tool, path)
        if looked_up is None:
            outcome = UNTRIED
            continue
        found = list(vulnerabilities(looked_up))
        print(f"{path}: {len(looked_up)} releases looked up, {len(found)} known vulnerabilities")
        print("".join(f"  {line}\n" for line in found), end="")
        outcome = max(outcome, FOUND if found else NONE)
    return outcome


def look_up(tool: str, path: str) -> list[dict[str, Any]] | None:
    """Return what is known of each release in a file, None where nobody answered for all."""
    for service in SERVICES:
        # Strict: a release that nobody knows is a failure. Without pip: nothing is installed.
        command = [tool, "--strict", "--disable-pip", "--require-hashes", "--format", "json"]
        command += ["--vulnerability-service", service, "--progress-spinner", "off"]
        try:
            done = subprocess.run(
                [*command, "--requirement", path],
                capture_output=True,
                text=True,
                timeout=SECONDS_MAX,
                check=False,
            )
            releases: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
            return releases
        except subprocess.TimeoutExpired:
            why = f"no answer for {SECONDS_MAX} s"
        except (ValueError, KeyError, TypeError):
            why = done.stderr.strip() or f"it left with {done.returncode}"
        print(f"{path}: UNTRIED, {service} did not answer: {why}")
    return None


def vulnerabilities(looked_up: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each."""
    for release in looked_up:
        for known in release["vulns"]:
            mended = ", ".join(known["fix_versions"]) or "no release"
            yield f"{release['name']} {release['version']}: {known['id']}, mended in {mended}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
