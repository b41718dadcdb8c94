"""Tables and blocks of text: cut to a width, and aligned.

Pure, without any knowledge of actions. Widths are in characters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

GAP = "  "


@dataclass(frozen=True, slots=True)
class Column:
    """One column. It shrinks to `least` where space is short; None: it never shrinks."""

    title: str
    least: int | None = None
    cut_middle: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells. `widths` are minimal; `titled` is false for the continuation of a table."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    widths: tuple[int, ...] = ()
    titled: bool = True


@dataclass(frozen=True, slots=True)
class Block:
    """Names and values, one pair a line."""

    pairs: tuple[tuple[str, str], ...]


Sheet: TypeAlias = Sequence[Table | Block]


def fit(table: Table, width: int) -> Table:
    """Cut cells of the columns that may shrink, from the first on, until the table fits `width`."""
    widths = column_widths(table)
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
    for index, column in enumerate(table.columns):
        if column.least is not None and excess > 0:
            narrow = max(column.least, widths[index] - excess)
            excess -= max(0, widths[index] - narrow)
            widths[index] = min(widths[index], narrow)
    rows = tuple(
        tuple(
            cut(cell, widths[index], middle=table.columns[index].cut_middle)
            for index, cell in enumerate(row)
        )
        for row in table.rows
    )
    minimal = tuple(map(min, table.widths, widths))
    return replace(table, rows=rows, widths=minimal)


def cut(text: str, width: int, *, middle: bool = False) -> str:
    """Shorten a text to `width` with an ellipsis, at its end or in its middle."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2 if middle else 0
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def column_widths(table: Table) -> list[int]:
    """Return the width of each column: that of its widest cell, its title or its minimum."""
    widths = list(table.widths) or [0] * len(table.columns)
    titles = [column.title for column in table.columns]
    for cells in (titles, *table.rows):
        widths = [max(width, len(cell)) for width, cell in zip(widths, cells, strict=True)]
    return widths


def plain_lines(sheet: Sheet) -> list[str]:
    """Format a sheet as aligned text, with an empty line between its parts."""
    lines: list[str] = []
    for part in sheet:
        if lines:
            lines.append("")
        if isinstance(part, Block):
            widest = max(len(name) for name, _ in part.pairs)
            lines.extend(f"{name.ljust(widest)}{GAP}{value}" for name, value in part.pairs)
        else:
            titles = [tuple(column.title for column in part.columns)] if part.titled else []
            widths = column_widths(part)
            lines.extend(_line(cells, widths) for cells in (*titles, *part.rows))
    return lines


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return GAP.join(padded).rstrip()
