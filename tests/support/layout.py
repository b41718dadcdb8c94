"""Which page of a sound LMDB file holds what, found out by the library's own verifier and
not by the code under test; and ways to spoil a page."""

import importlib
import sys
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Any

try:
    verify: Any = importlib.import_module("lmdb.verify")
except ModuleNotFoundError:  # before py-lmdb 3: `make test-bounds` lays a later one beside it
    verify = importlib.import_module("lmdb_verify")

PAGE_BYTES = 4096
PAGE_HEAD_BYTES = 16


class Layout(verify._Verifier):  # type: ignore[misc]  # the library has no types
    """`tables`: the table that each page in use belongs to; `keys`: what is lost with it."""

    def __init__(self, data: Path) -> None:
        self.tables: dict[int, str] = {0: "head", 1: "head"}
        self.keys: dict[int, set[bytes]] = defaultdict(set)
        self.overflow: set[int] = set()  # pages of long values
        self.inside_values: set[int] = set()  # those of them without a head
        self._path: list[int] = []
        with data.open("rb") as file:
            super().__init__(file, data.stat().st_size)
            assert self.verify() == []
        self.pages = int(self.next_pgno)

    def _walk_page(self, ctx: Any, pgno: int, depth: int) -> None:
        self.tables[pgno] = table_of(ctx)
        self._path.append(pgno)
        super()._walk_page(ctx, pgno, depth)
        self._path.pop()

    def _leaf_value(self, ctx: Any, pgno: int, *rest: Any) -> None:
        for page in self._path:
            self.keys[page].add(rest[-1])
        self._key = rest[-1]
        super()._leaf_value(ctx, pgno, *rest)

    def _bigdata(self, ctx: Any, *rest: Any, **how: Any) -> Any:
        found = super()._bigdata(ctx, *rest, **how)
        value = [p for p in range(2, self.next_pgno) if self.live[p] and p not in self.tables]
        self.overflow.update(value)
        self.inside_values.update(value[1:])
        for page in value:
            self.tables[page] = table_of(ctx)
            self.keys[page].add(self._key)
        return found


def table_of(ctx: Any) -> str:
    return str(ctx["name"]).removeprefix("main/")


def rows_on(data: Path, page: int) -> list[int]:
    """Where in the file the head of each row on a page of a tree is."""
    with data.open("rb") as file:
        file.seek(page * PAGE_BYTES)
        content = file.read(PAGE_BYTES)
    end = int.from_bytes(content[12:14], sys.byteorder)
    pointers = range(PAGE_HEAD_BYTES, end, 2)
    at = [int.from_bytes(content[p : p + 2], sys.byteorder) for p in pointers]
    return [page * PAGE_BYTES + row for row in at]


def zero(data: Path, page: int) -> None:
    write(data, page * PAGE_BYTES, bytes(PAGE_BYTES))


def scramble_head(data: Path, page: int, random: Random) -> None:
    write(data, page * PAGE_BYTES, random.randbytes(PAGE_HEAD_BYTES))


def flip(data: Path, offset: int, bit: int) -> None:
    with data.open("r+b") as file:
        file.seek(offset)
        old = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([old ^ 1 << bit]))


def write(data: Path, offset: int, content: bytes) -> None:
    with data.open("r+b") as file:
        file.seek(offset)
        file.write(content)
