"""Steps of a trial, what became of each, and the table of all trials."""

import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

BEGIN = "<!-- table of hosts: begin -->"
END = "<!-- table of hosts: end -->"


class UntriedError(Exception):
    """This machine lacks what a part needs; the message says what."""


class CommandError(AssertionError):
    """A command of a trial failed."""

    def __init__(self, done: "subprocess.CompletedProcess[str]") -> None:
        self.output = (done.stdout or "") + (done.stderr or "")
        said = self.output.strip()[-1500:]
        super().__init__(f"{done.args!r} left with {done.returncode}: {said}")


@dataclass
class Step:
    name: str
    seconds: float
    error: str = ""


@dataclass
class Trial:
    """One row of the table. `versions` and `notes` are what the row says besides."""

    part: str
    title: str
    log: TextIO
    versions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    untried: str = ""
    seconds: float = 0.0

    def say(self, text: str) -> None:
        print(f"[{self.part}] {text}", flush=True)
        self.log.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        self.log.flush()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Note how a step ends. One that fails is told of, and the trial goes on."""
        began_monotonic = time.monotonic()
        step = Step(name, 0.0)
        self.steps.append(step)
        try:
            yield
        except (AssertionError, OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
            step.error = str(error) or repr(error)
            self.log.write(traceback.format_exc())
        step.seconds = time.monotonic() - began_monotonic
        self.say(f"{name}: {step.error or 'as promised'} ({step.seconds:.1f} s)")

    @property
    def failed(self) -> list[Step]:
        return [step for step in self.steps if step.error]

    @property
    def result(self) -> str:
        if self.untried:
            return "untried"
        return "red" if self.failed or not self.steps else "green"

    def row(self) -> str:
        words = [f"{step.name}: {_cell(step.error)}" for step in self.failed]
        if self.untried:
            words = [self.untried]
        good = f"{len(self.steps) - len(self.failed)} of {len(self.steps)}"
        cells = (
            *(self.title, ", ".join(self.versions) or "-", self.result, good),
            *(f"{self.seconds / 60:.1f} min", "; ".join((*self.notes, *words)) or "-"),
        )
        return f"| {' | '.join(_cell(cell, chars_max=600) for cell in cells)} |"


@contextmanager
def trial(part: str, title: str, place: Path) -> Iterator[Trial]:
    """A trial whose log is below `place`. What is not there makes it untried, and red is only
    what failed."""
    with (place / f"{part}.log").open("a") as log:
        made = Trial(part, title, log)
        began_monotonic = time.monotonic()
        try:
            yield made
        except UntriedError as reason:
            made.untried = str(reason)
            made.say(f"untried: {reason}")
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            made.steps.append(Step("to its end", 0.0, str(error) or repr(error)))
            traceback.print_exc(file=log)
            traceback.print_exc(file=sys.stderr)
        made.seconds = time.monotonic() - began_monotonic


def table(rows: Sequence[str]) -> str:
    head = "| host | versions | result | steps | time | notes |\n|---|---|---|---|---|---|"
    return "\n".join((head, *rows))


def write_table(page: Path, machine: str, rows: Sequence[str]) -> None:
    """Put the table between its marks in a document. Rows of hosts that were not tried now stay."""
    before, begin, rest = page.read_text().partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"cannot write the table: {page} has no place for it")
    kept = {_title(row): row for row in old.splitlines() if row.startswith("| ")}
    kept.pop("host", None)
    kept |= {_title(row): row for row in rows}
    text = f"{begin}\n{machine}\n\n{table(list(kept.values()))}\n{end}"
    page.write_text(before + text + after)


def _title(row: str) -> str:
    return row.split("|")[1].strip()


def _cell(text: str, *, chars_max: int = 300) -> str:
    """On one line, and with no border of the table in it."""
    line = " ".join(text.replace("|", "/").split())
    return line if len(line) <= chars_max else line[: chars_max - 1] + "…"
