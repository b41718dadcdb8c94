"""The documents say what the code does, as far as a test can compare the two, and lead to each
other."""

import re
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import click
import msgspec
import pytest
from demo.demo import STORIES
from geosched.ipc.actions import ExecutionStatus
from geosched.ipc.ctl.exits import Exit
from geosched.ipc.ctl.main import cli
from geosched.ipc.messages.runs import Limits
from geosched.ipc.messages.sync import ErrorKind
from geosched.supervisor import daemon
from geosched.supervisor.config import parsers
from geosched.supervisor.config.sections import (
    BackendSettings,
    ControlSettings,
    DaemonSettings,
    ScriptSettings,
    key_of,
)
from geosched.supervisor.config.settings import load
from geosched.supervisor.core.model import Reason
from support import diagram
from support.picture import needs_from_elsewhere

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
INDEX = DOCS / "README.md"
SETTINGS = DOCS / "settings.md"
COMMANDS = DOCS / "commands.md"
BACKENDS = DOCS / "backends.md"
OPERATIONS = DOCS / "operations.md"
DESIGN = DOCS / "design.md"
PICTURE = DOCS / "demo.svg"
DOCUMENTS = [README, ROOT / "CHANGELOG.md", ROOT / "deploy/README.md", *sorted(DOCS.glob("*.md"))]
README_LINES_MAX = 200
SOURCES = [
    path for folder in ("ipc", "workers", "supervisor") for path in (ROOT / folder).rglob("*.py")
]

PHASES = ["scheduled", "queued", "starting", "running", "waiting", "stopping", "stuck", "done"]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
#: "fact P5", "facts 5, 8, L14 to L16", and in the design "[L5, Z1]".
CITATION = re.compile(r"\bfacts? ((?:[A-Z]?\d+(?:, | to | and )?)+)")
DESIGN_CITATION = re.compile(r"\[((?:[A-Z]?\d+(?:, | to )?)+)\]")
FACT = re.compile(r"[A-Z]?\d+")


def table_under(page: Path, heading: str, *, column: int = 1) -> list[str]:
    """The cells of a column of the table that follows `heading`, without their quotes."""
    _, _, after = page.read_text().partition(heading)
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
        return Limits(**value)
    return tuple(value) if isinstance(value, list) else value


def links(document: Path) -> list[tuple[Path, str]]:
    """The files of this repository that a document links to, each with the anchor in it."""
    found = []
    for link in LINK.findall(FENCE.sub("", document.read_text())):
        if not re.match(r"[a-z]+:", link):
            place, _, anchor = link.partition("#")
            found.append(((document.parent / place).resolve() if place else document, anchor))
    return found


def anchors(text: str) -> set[str]:
    """As GitHub makes them of the headings; a heading that is there twice counts once."""
    headings = HEADING.findall(FENCE.sub("", text))
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {word.replace(" ", "-") for word in words}


def test_the_diagram_is_the_one_that_the_code_draws() -> None:
    _, begin, rest = README.read_text().partition(diagram.BEGIN)
    drawn, end, _ = rest.partition(diagram.END)
    assert begin
    assert end
    assert drawn == diagram.block(), "paste what `python tests/support/diagram.py` prints"


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("## `[daemon]`\n", DaemonSettings),
        ("## `[backend]`\n", BackendSettings),
        ("## `[scripts.<type>]`\n", ScriptSettings),
        ("## `[control]`\n", ControlSettings),
    ],
)
def test_every_setting_is_explained_with_its_default(
    heading: str, section: type[msgspec.Struct]
) -> None:
    known = {key_of(field.name): field for field in msgspec.structs.fields(section)}
    explained = table_under(SETTINGS, heading)
    assert sorted(explained) == sorted(known)
    for name, shown in zip(explained, table_under(SETTINGS, heading, column=2), strict=True):
        field = known[name]
        if shown not in ("none", "needed"):
            assert default_of(field) == read(field.name, tomllib.loads(f"x = {shown}")["x"]), name


def test_the_configuration_in_the_interface_is_one(tmp_path: Path) -> None:
    _, _, rest = (DOCS / "interface.md").read_text().partition("```toml\n")
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
    assert table_under(COMMANDS, "## Statuses, phases, reasons") == [
        str(status) for status in ExecutionStatus
    ]
    assert table_under(COMMANDS, "The last four are terminal") == PHASES
    assert sorted(table_under(COMMANDS, "| `done` |")) == sorted(Reason)


def test_every_kind_of_failed_exchange_is_explained() -> None:
    assert table_under(BACKENDS, "begins with one of these words") == [
        str(kind) for kind in ErrorKind
    ]


def test_every_verb_is_explained() -> None:
    verbs = [cell.split()[0] for cell in table_under(COMMANDS, "5 s of silence end it")]
    assert sorted(verbs) == cli.list_commands(click.Context(cli))


def test_every_exit_code_is_explained() -> None:
    codes = (
        daemon.EXIT_STOPPED,
        daemon.EXIT_ERROR,
        daemon.EXIT_SETTINGS,
        daemon.EXIT_ALREADY_RUNNING,
        daemon.EXIT_STORE,
    )
    assert table_under(OPERATIONS, "## Exit codes of geoschedd") == [str(code) for code in codes]
    assert table_under(COMMANDS, "### Exit codes of geosched-ctl") == [
        str(code.value) for code in Exit
    ]


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= README_LINES_MAX


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    for target, anchor in links(document):
        assert target.exists(), target
        assert not anchor or anchor in anchors(target.read_text()), f"{target}#{anchor}"


def test_the_picture_needs_nothing_from_elsewhere() -> None:
    assert needs_from_elsewhere(PICTURE.read_text()) == []


def test_the_picture_shows_the_demo_as_it_is() -> None:
    assert (PICTURE, "") in links(README)
    shown = "".join(ElementTree.fromstring(PICTURE.read_text()).itertext()).replace("\xa0", " ")
    for story in STORIES:
        for text in (story.id, story.status, story.why):
            assert text in shown, "`make picture` draws it anew"


def test_what_a_picture_needs_from_elsewhere_is_found() -> None:
    drawn = (
        '<svg xmlns="http://www.w3.org/2000/svg"><style>@import "a"; x { fill: url(b) }</style>'
        '<image href="https://backend.example/c.png"/></svg>'
    )
    assert needs_from_elsewhere(drawn) == [
        "@import",
        "url(",
        "https://backend.example/c.png",
        "image",
        "href",
    ]


def test_every_page_is_in_the_index() -> None:
    pages = {path for path in DOCS.iterdir() if path.suffix in (".md", ".yaml")}
    assert pages - {INDEX} <= {target for target, _ in links(INDEX)}
    assert INDEX in {target for target, _ in links(README)}


def test_every_fact_that_is_cited_can_be_looked_up() -> None:
    facts = (DOCS / "facts.md").read_text()
    known = set(re.findall(r"^\| ([A-Z]?\d+) \|", facts, re.MULTILINE))
    cited = {
        fact
        for path in [*SOURCES, DESIGN]
        for found in (DESIGN_CITATION if path == DESIGN else CITATION).findall(path.read_text())
        for fact in FACT.findall(found)
    }
    assert "P5" in cited
    assert cited - known == set()
