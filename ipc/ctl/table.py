"""Tables and blocks of text: cut to a width, and aligned.

Pure, without any knowledge of actions. Widths are in characters.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

GAP = "  "
#: The least width of a cell that is cut in its middle.
TIGHT = 8


@dataclass(frozen=True, slots=True)
class Column:
    """One column. It shrinks to `least` where space is short; None: it never shrinks. Where that
    is not enough, the column with the highest `spared` is left out, then the next; 0: never."""

    title: str
    least: int | None = None
    cut_middle: bool = False
    cut_start: bool = False
    spared: int = 0


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
    """Leave columns out that may be spared, and cut cells of those that may shrink, from the first
    on, until the table fits `width`."""
    while _least_width(table) > width and (found := _most_spared(table)) is not None:
        table = _without(table, found)
    if (missing := _least_width(table) - width) > 0:
        table = replace(table, columns=tuple(_tighter(each, missing) for each in table.columns))
    widths = column_widths(table)
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
    for index, column in enumerate(table.columns):
        if column.least is not None and excess > 0:
            narrow = max(column.least, widths[index] - excess)
            excess -= max(0, widths[index] - narrow)
            widths[index] = min(widths[index], narrow)
    rows = tuple(
        tuple(
            cut(cell, width, middle=column.cut_middle, start=column.cut_start)
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        )
        for row in table.rows
    )
    minimal = tuple(map(min, table.widths, widths))
    return replace(table, rows=rows, widths=minimal)


def _least_width(table: Table) -> int:
    widths = [
        width if column.least is None else min(width, column.least)
        for width, column in zip(column_widths(table), table.columns, strict=True)
    ]
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _most_spared(table: Table) -> int | None:
    """Return the index of the column to leave out next; None where each has to stay."""
    index = max(range(len(table.columns)), key=lambda at: table.columns[at].spared)
    return index if table.columns[index].spared else None


def _tighter(column: Column, missing: int) -> Column:
    """Let an id shrink by what is missing: its two ends still tell it from others."""
    if column.least is None or not column.cut_middle:
        return column
    return replace(column, least=max(TIGHT, column.least - missing))


def _without(table: Table, index: int) -> Table:
    return replace(
        table,
        columns=table.columns[:index] + table.columns[index + 1 :],
        rows=tuple(row[:index] + row[index + 1 :] for row in table.rows),
        widths=table.widths[:index] + table.widths[index + 1 :],
    )


def cut(text: str, width: int, *, middle: bool = False, start: bool = False) -> str:
    """Shorten a text to `width` with an ellipsis, at its end, its start or in its middle."""
    if len(text) <= width:
        return text
    tail = width - 1 if start else (width - 1) // 2 if middle else 0
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def column_widths(table: Table) -> list[int]:
    """Return the width of each column: that of its widest cell, its title or its minimum."""
    widths = list(table.widths) or [0] * len(table.columns)
    titles = [column.title for column in table.columns]
    for cells in (titles, *table.rows):
        widths = [max(width, len(cell)) for width, cell in zip(widths, cells, strict=True)]
    return widths


def plain_lines(sheet: Sheet, width: int | None = None) -> list[str]:
    """Format a sheet as aligned text, with an empty line between its parts; as wide as it is, or
    cut and folded to `width`."""
    lines: list[str] = []
    for part in sheet:
        if lines:
            lines.append("")
        if isinstance(part, Block):
            lines.extend(_block_lines(part, width))
        else:
            lines.extend(_table_lines(part if width is None else fit(part, width)))
    return lines


def _block_lines(block: Block, width: int | None) -> Iterator[str]:
    widest = max(len(name) for name, _ in block.pairs)
    for name, value in block.pairs:
        folded = [value] if width is None else _folded(value, width - widest - len(GAP))
        for index, line in enumerate(folded):
            yield f"{('' if index else name).ljust(widest)}{GAP}{line}"


def _folded(text: str, width: int) -> list[str]:
    """Break a text into lines, between words where that can be."""
    wrapped = textwrap.wrap(
        text, max(TIGHT, width), break_on_hyphens=False, expand_tabs=False, replace_whitespace=False
    )
    return wrapped or [""]


def _table_lines(table: Table) -> Iterator[str]:
    titles = [tuple(column.title for column in table.columns)] if table.titled else []
    widths = column_widths(table)
    return (_line(cells, widths) for cells in (*titles, *table.rows))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return GAP.join(padded).rstrip()
