"""What a benchmark says: figures beside their goals, tables, remarks; as text, JSON, Markdown."""

import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
VERDICTS = {None: "", True: "met", False: "MISSED"}


@dataclass(frozen=True)
class Figure:
    """One line of the table; without a goal it only informs. Less is better."""

    name: str
    value: float
    unit: str
    goal: float | None = None

    @property
    def met(self) -> bool | None:
        return None if self.goal is None else self.value <= self.goal

    def cells(self) -> tuple[str, str, str, str]:
        goal = "" if self.goal is None else f"{self.goal:g} {self.unit}"
        return self.name, f"{number(self.value)} {self.unit}", goal, VERDICTS[self.met]

    def __str__(self) -> str:
        name, value, goal, verdict = self.cells()
        return f"{name:<66} {value:>15} {goal:>10}  {verdict}"


@dataclass(frozen=True)
class Table:
    """Several contenders side by side; it only informs."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        lines = [self.head, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.head))]
        texts = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        return "\n".join(["", self.title, *(f"  {text}" for text in texts), ""])


@dataclass(frozen=True)
class Remark:
    """What a reader has to know to read the figures rightly."""

    text: str

    def __str__(self) -> str:
        return f"  ({self.text})"


Line = Figure | Table | Remark
_KINDS: dict[str, type[Line]] = {"figure": Figure, "table": Table, "remark": Remark}


def number(value: float) -> str:
    """Three digits that matter, and no more before the point than there are."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.4f}" if abs(value) < 0.1 else f"{value:.3g}"


# --- JSON -------------------------------------------------------------------------------


def to_json(line: Line) -> dict[str, Any]:
    kind = next(name for name, each in _KINDS.items() if isinstance(line, each))
    met = {"met": line.met} if isinstance(line, Figure) else {}
    return {"kind": kind, **asdict(line), **met}


def from_json(row: dict[str, Any]) -> Line:
    fields = {key: value for key, value in row.items() if key not in ("kind", "met")}
    return _KINDS[row["kind"]](**fields)


def write_json(file: Path, document: dict[str, Any]) -> None:
    new = file.with_name(file.name + ".new")
    new.write_text(json.dumps(document, indent=2) + "\n")
    new.rename(file)


# --- Markdown ---------------------------------------------------------------------------


def refresh(page: Path, document: dict[str, Any]) -> None:
    """Put the figures between the marks of a page; the rest of it stays."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"cannot write to {page}: it has no lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{markdown(document)}{END}{after}")


def markdown(document: dict[str, Any]) -> str:
    host = ", ".join(f"{key} {value}" for key, value in document["host"].items())
    lines = [f"Machine: {host}.", ""]
    for name, part in sorted(document["parts"].items()):
        size = ", **quick: smaller sizes, few repetitions, not to be relied on**"
        lines += [f"### {name}. {part['title']}", ""]
        lines += [f"Measured {part['measured']}, load {part['load']}{size * part['quick']}.", ""]
        lines += _markdown_lines([from_json(row) for row in part["lines"]])
    return "\n".join(lines) + "\n"


def _markdown_lines(rows: list[Line]) -> Iterator[str]:
    figures = [row for row in rows if isinstance(row, Figure)]
    if figures:
        yield from _rows(("figure", "value", "goal", ""), [figure.cells() for figure in figures])
    for row in rows:
        if isinstance(row, Table):
            yield from (f"{row.title}:", "")
            yield from _rows(row.head, row.rows)
    remarks = [f"- {row.text}" for row in rows if isinstance(row, Remark)]
    yield from (*remarks, "") if remarks else ()


def _rows(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    for cells in (head, ("---",) * len(head), *rows):
        yield "| " + " | ".join(str(cell).strip() for cell in cells) + " |"
    yield ""


# --- the machine ------------------------------------------------------------------------


def machine() -> dict[str, str | int | None]:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("model name", "Model"))
    ]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
