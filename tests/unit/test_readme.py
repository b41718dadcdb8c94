"""The README says what the code does, as far as a test can compare the two."""

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from geosched.ipc.actions import ExecutionStatus
from geosched.ipc.ctl.main import Exit, cli
from geosched.ipc.messages.sync import ErrorKind
from geosched.supervisor import daemon
from geosched.supervisor.config import parsers
from geosched.supervisor.config.settings import (
    BackendSettings,
    ControlSettings,
    DaemonSettings,
    LimitSettings,
    ScriptSettings,
    load,
)
from geosched.supervisor.core.model import Reason
from support import diagram

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
DESIGN = ROOT / "docs" / "design.md"
SOURCES = [
    path for folder in ("ipc", "workers", "supervisor") for path in (ROOT / folder).rglob("*.py")
]

PHASES = ["scheduled", "queued", "starting", "running", "waiting", "stopping", "stuck", "done"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
#: "fact P5", "facts 5, 8, L14 to L16", and in the design "[L5, Z1]".
CITATION = re.compile(r"\bfacts? ((?:[A-Z]?\d+(?:, | to | and )?)+)")
DESIGN_CITATION = re.compile(r"\[((?:[A-Z]?\d+(?:, | to )?)+)\]")
FACT = re.compile(r"[A-Z]?\d+")


def table_under(heading: str, *, column: int = 1) -> list[str]:
    """The cells of a column of the table that follows `heading`, without their quotes."""
    _, _, after = README.partition(heading)
    rows = re.search(r"(?:^\|.*\n)+", after, re.MULTILINE)
    assert rows, heading
    return [line.split("|")[column].strip().strip("`") for line in rows[0].splitlines()[2:]]


def default_of(field: msgspec.structs.FieldInfo) -> object:
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return str(field.default) if isinstance(field.default, Path) else field.default


def read(name: str, value: Any) -> object:
    """A value of the file as the settings hold it."""
    if name.endswith("_seconds"):
        return parsers.seconds(value)
    if name.endswith("_bytes"):
        return parsers.size_bytes(value)
    if name == "stop_signal":
        return parsers.stop_signal(value)
    if name == "umask":
        return parsers.umask(value)
    if name == "limits":
        return LimitSettings(**value)
    return tuple(value) if isinstance(value, list) else value


def anchors(text: str) -> set[str]:
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in HEADING.findall(text))
    return {word.replace(" ", "-") for word in words}


def test_the_diagram_is_the_one_that_the_code_draws() -> None:
    _, begin, rest = README.partition(diagram.BEGIN)
    drawn, end, _ = rest.partition(diagram.END)
    assert begin
    assert end
    assert drawn == diagram.block(), "paste what `python tests/support/diagram.py` prints"


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("`[daemon]`\n", DaemonSettings),
        ("`[backend]`\n", BackendSettings),
        ("`[scripts.<type>]`", ScriptSettings),
        ("`[control]`\n", ControlSettings),
    ],
)
def test_every_setting_is_explained_with_its_default(
    heading: str, section: type[msgspec.Struct]
) -> None:
    known = {field.encode_name: field for field in msgspec.structs.fields(section)}
    assert table_under(heading) == list(known)
    for (name, field), shown in zip(known.items(), table_under(heading, column=2), strict=True):
        if shown not in ("none", "needed"):
            assert default_of(field) == read(field.name, tomllib.loads(f"x = {shown}")["x"]), name


def test_the_configuration_in_the_interface_is_one(tmp_path: Path) -> None:
    _, _, rest = (ROOT / "docs" / "interface.md").read_text().partition("```toml\n")
    shown = tmp_path / "shown.toml"
    shown.write_text(rest.partition("```")[0])
    bare = tmp_path / "bare.toml"
    bare.write_text(
        '[backend]\nurl = "https://backend.example/api"\npath = "actions.json"\n'
        'token_file = "/etc/geosched/token"\n[scripts.default]\n'
        'command = ["/usr/lib/geosched/scripts/block-apps", "--apps={apps}"]\n'
    )
    assert msgspec.structs.replace(load(shown), source=bare) == load(bare)


def test_every_status_phase_and_reason_is_explained() -> None:
    assert table_under("## Statuses, phases, reasons") == [
        str(status) for status in ExecutionStatus
    ]
    assert table_under("The last four are terminal") == PHASES
    assert sorted(table_under("| `done` |")) == sorted(Reason)


def test_every_kind_of_failed_exchange_is_explained() -> None:
    assert table_under("begins with one of these words") == [str(kind) for kind in ErrorKind]


def test_every_verb_is_explained() -> None:
    verbs = [cell.split()[0] for cell in table_under("5 s of silence end it")]
    assert sorted(verbs) == sorted(cli.commands)


def test_every_exit_code_is_explained() -> None:
    codes = (
        daemon.EXIT_STOPPED,
        daemon.EXIT_ERROR,
        daemon.EXIT_SETTINGS,
        daemon.EXIT_ALREADY_RUNNING,
        daemon.EXIT_STORE,
    )
    assert table_under("`geoschedd [--config FILE]") == [str(code) for code in codes]
    assert table_under("| `shutdown` |") == [str(code.value) for code in Exit]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    text = document.read_text()
    for link in LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = document.parent / place if place else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text()), link


def test_every_fact_that_is_cited_can_be_looked_up() -> None:
    facts = (ROOT / "docs" / "facts.md").read_text()
    known = set(re.findall(r"^\| ([A-Z]?\d+) \|", facts, re.MULTILINE))
    cited = {
        fact
        for path in [*SOURCES, DESIGN]
        for found in (DESIGN_CITATION if path == DESIGN else CITATION).findall(path.read_text())
        for fact in FACT.findall(found)
    }
    assert "P5" in cited
    assert cited - known == set()
