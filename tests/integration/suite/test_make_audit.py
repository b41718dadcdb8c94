"""`make audit` lists what is known, and does not pass where nobody could say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import TESTS

SOUND = {"name": "click", "version": "8.5.1", "vulns": []}
OPEN = {
    "name": "urllib3",
    "version": "2.2.0",
    "vulns": [{"id": "CVE-2025-66471", "fix_versions": ["2.6.0"], "aliases": []}],
}
#: What pip-audit says where it is refused, or not answered.
AWAY = "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed"


def audited(place: Path, **answers: list[dict[str, object]]) -> tuple[int, str]:
    """Exit code and output, where the services answer so and the others do not."""
    tool = place / "pip-audit"
    cases = []
    for service, releases in answers.items():
        said = json.dumps({"dependencies": releases, "fixes": []})
        code = int(any(release["vulns"] for release in releases))
        cases.append(f"*--vulnerability-service\\ {service}\\ *) echo '{said}'; exit {code} ;;\n")
    tool.write_text(
        f'#!/bin/sh\ncase "$*" in\n{"".join(cases)}*) echo "{AWAY}" >&2; exit 1 ;;\nesac\n'
    )
    tool.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-P", TESTS / "support/audit.py", tool, "a.txt", "b.txt"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_nothing_known_is_0(tmp_path: Path) -> None:
    code, said = audited(tmp_path, pypi=[SOUND, SOUND])
    assert code == 0
    assert "b.txt: 2 releases looked up, 0 known vulnerabilities" in said


def test_what_is_known_is_listed_and_is_1(tmp_path: Path) -> None:
    code, said = audited(tmp_path, pypi=[SOUND, OPEN])
    assert code == 1
    assert "urllib3 2.2.0: CVE-2025-66471, mended in 2.6.0" in said


def test_where_nobody_answers_it_is_2_and_says_so(tmp_path: Path) -> None:
    code, said = audited(tmp_path)
    assert code == 2
    assert said.count("UNTRIED") == 4
    assert AWAY in said


def test_another_service_is_asked_where_the_first_does_not_answer(tmp_path: Path) -> None:
    code, said = audited(tmp_path, osv=[OPEN])
    assert code == 1
    assert "UNTRIED, pypi did not answer" in said


@pytest.mark.parametrize("said", ["", "no JSON", "[]", "{}"])
def test_an_answer_that_is_none_is_no_good_news(tmp_path: Path, said: str) -> None:
    tool = tmp_path / "pip-audit"
    tool.write_text(f"#!/bin/sh\necho '{said}'\n")
    tool.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-P", TESTS / "support/audit.py", tool, "a.txt"],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 2
