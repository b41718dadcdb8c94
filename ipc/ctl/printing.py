"""Output of answers: JSON, plain text or, on a terminal, text in colour.

The only importer of `rich`, late: to import it takes longer than all the rest of a command,
and only a terminal has a use for it. Where it is not installed (the extra `geosched[tables]`), a
terminal gets the same text without colour.
"""

import importlib.util
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import click
import msgspec

from ..foreign_text import visible_json
from ..messages.control import SCHEMA_VERSION, Progress
from .options import OutputFormat, output_of
from .table import Block, Sheet, Table, fit, plain_lines
from .words import clean

if TYPE_CHECKING:
    from rich.console import RenderableType

#: By the first word of a cell: no colour says anything that the text does not.
_STYLES = {
    "STARTED": "green",
    "FINISHED": "blue",
    "WONT_START": "yellow",
    "WONT_FINISH": "yellow",
    "FAILED": "red",
    "ATTENTION": "bold red",
    "stuck": "bold red",
    "running": "green",
    "waiting": "yellow",
    "ok": "green",
    "trusted": "green",
    "failing": "red",
    "fine": "green",
    "worth-knowing": "yellow",
    "to-do": "bold red",
    "untrusted": "yellow",
}


def now_us() -> int:
    return time.time_ns() // 1000


def complain(text: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(f"geosched-ctl: {clean(text)}\n")
    sys.stderr.flush()


class ProgressLine:
    """A line on standard error that is rewritten with the progress and removed at the end.

    `wanted` is false where standard error is no terminal: then nothing is shown.
    """

    def __init__(self) -> None:
        self.wanted = sys.stderr.isatty()
        self._width = 0

    def show(self, now: Progress) -> None:
        self._write(f"{now.settled} of {now.total}")

    def _write(self, text: str) -> None:
        if self.wanted:
            sys.stderr.write(f"\r{text:<{self._width}}\r{text}")
            sys.stderr.flush()
            self._width = len(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._width:
            self._write("")


def fields(view: msgspec.Struct) -> dict[str, Any]:
    """Return a view as the fields of a JSON document."""
    found: dict[str, Any] = msgspec.to_builtins(view)
    return found


def show(ctx: click.Context, document: dict[str, Any], sheet: Sheet) -> None:
    """Write one answer in the output that the command line asks for."""
    output = output_of(ctx)
    if output is OutputFormat.TABLE:
        show_sheet(sheet)
    else:
        show_document(document, output)


def show_document(fields: dict[str, Any], output: OutputFormat) -> None:
    """Write one JSON document: indented for `json`, one line for `jsonl`."""
    encoded = visible_json(msgspec.json.encode({"schemaVersion": SCHEMA_VERSION, **fields}))
    if output is OutputFormat.JSON:
        encoded = msgspec.json.format(encoded, indent=2)
    write(encoded + b"\n")


def show_line(value: msgspec.Struct) -> None:
    """Write one JSON object of many, on a line of its own."""
    write(visible_json(msgspec.json.encode(value)) + b"\n")


def show_sheet(sheet: Sheet) -> None:
    """Write tables: cut to the width of a terminal and, where `rich` is installed, in colour; or
    else whole and plain, for other programs to search."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if width is not None and importlib.util.find_spec("rich") is not None:
        _show_in_colour(sheet, width)
    else:
        sys.stdout.writelines(f"{line}\n" for line in plain_lines(sheet, width))
    sys.stdout.flush()


def write(data: bytes) -> None:
    """Write bytes unchanged, and flush."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _show_in_colour(sheet: Sheet, width: int) -> None:
    from rich.console import Console

    console = Console(width=width, highlight=False, markup=False, emoji=False)
    for index, part in enumerate(sheet):
        if index:
            console.print()
        console.print(_block(part) if isinstance(part, Block) else _table(fit(part, width)))


def _table(table: Table) -> "RenderableType":
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        show_header=table.titled,
        header_style="bold",
    )
    for index, column in enumerate(table.columns):
        least = table.widths[index] if table.widths else None
        drawn.add_column(Text(column.title), no_wrap=True, min_width=least)
    for row in table.rows:
        drawn.add_row(*(Text(cell, style=style_of(cell)) for cell in row))
    return drawn


def _block(block: Block) -> "RenderableType":
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    drawn.add_column(no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in block.pairs:
        drawn.add_row(Text(name, style=_STYLES.get(name, "bold")), Text(value, style_of(value)))
    return drawn


def style_of(cell: str) -> str:
    words = cell.split(maxsplit=1)
    return _STYLES.get(words[0].rstrip(",:"), "") if words else ""
