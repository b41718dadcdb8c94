"""Reads an LMDB file by its pages, without LMDB, which dies of a damaged one (fact 3).

A file holds two snapshots: what the last transaction committed, and what the one before it
did, whose pages are not used again yet. A page that is not what it should be costs the rows
on it and below it, and nothing else. Maps nothing, writes nothing, knows no table.
"""

import os
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

_WORD = "Q" if sys.maxsize > 2**32 else "I"
_PAGE = struct.Struct(f"={_WORD}HHHH")  # its number, nothing, flags, where its nodes end, begin
_META = struct.Struct(f"=II{_WORD}{_WORD}")  # magic, version, address, size of the map
_TREE = struct.Struct(f"=IHH5{_WORD}")  # page size, flags, depth, three counts, entries, root
_LAST = struct.Struct(f"={_WORD}{_WORD}")  # last page, transaction
_NODE = struct.Struct("=IHH")  # size of the value or a child, flags, size of the key
_POINTER = struct.Struct("=H")
_NUMBER = struct.Struct(f"={_WORD}")

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 1, 2, 4, 8
_BIG_VALUE, _TREE_VALUE = 1, 2
_NO_ROOT = 2 ** (8 * _NUMBER.size) - 1
_PAGE_BYTES = (512, 1024, 2048, 4096, 8192, 16384, 32768)
SNAPSHOTS = 2
#: Size or child, flags, key, and what is behind the key.
_Node: TypeAlias = tuple[int, int, bytes, bytes]
#: A page, the key that it begins with or may, the key that its keys are below.
_Below: TypeAlias = tuple[int, bytes, bytes | None]
#: The flags of a node that leads to a page are the upper part of its number.
_UPPER_BITS = 32


class Tree(NamedTuple):
    entries: int
    root: int


class _Head(NamedTuple):
    transaction: int
    page_bytes: int
    free: Tree
    main: Tree


class Found(msgspec.Struct):
    """The rows that could be read; `whole`: there were no others."""

    rows: dict[bytes, bytes] = msgspec.field(default_factory=dict)
    whole: bool = True


class _BadPageError(Exception):
    """It is not what should be there."""


class Snapshot:
    """What one transaction left."""

    def __init__(self, file: "_File", free: Tree, main: Tree) -> None:
        self._file = file
        self._free, self._main = free, main
        self._trees = _Walk(file, main)
        self._tables = {
            name: _tree_in(value) for name, value in self._trees if len(value) == _TREE.size
        }

    def __contains__(self, name: str) -> bool:
        return name.encode() in self._tables

    def table(self, name: str) -> Found:
        """Empty where there is none; whole, if it is certain that there is none."""
        tree = self._tables.get(name.encode())
        if tree is None:
            return Found(whole=self._trees.whole)
        walk = _Walk(self._file, tree)
        rows = dict(walk)
        return Found(rows, walk.whole)

    def fault(self, *, every_row: bool) -> str:
        """Where LMDB would not find what is there, or write over it, in a line; else ""."""
        named = [(name.decode(errors="replace"), tree) for name, tree in self._tables.items()]
        for name, tree in (("free pages", self._free), ("tables", self._main), *named):
            walk = _Walk(self._file, tree, ordered=tree is not self._free)
            walk.look(every_row=every_row)
            if not (walk.whole and walk.orderly):
                return f"a page of the {name} is not as it was written"
        return ""


def fault_in(data: Path, *, every_row: bool = True) -> str:
    """What is wrong with the newest snapshot, in a line; else "". Raises `OSError`.

    Stricter than LMDB's verifier: on each page the nodes lie side by side, or the removal of
    one would destroy others; and keys are where those above them say, or none is found by
    its key. Without `every_row` of each leaf only its ends are looked at.
    """
    for snapshot in snapshots(data):
        return snapshot.fault(every_row=every_row)
    return "it has no head"


def snapshots(data: Path) -> Iterator[Snapshot]:
    """The newest first; fewer than two where the head of one is damaged. For as long as the
    iteration lasts. Raises `OSError` where the file cannot be opened."""
    descriptor = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = _heads(descriptor)
        for _, page_bytes, free, main in sorted(found, reverse=True):
            yield Snapshot(_File(descriptor, page_bytes), free, main)
    finally:
        os.close(descriptor)


def _heads(descriptor: int) -> Iterator[_Head]:
    """Where the first head is damaged, the
    second is looked for at each place where it can be."""
    for number, offset in ((0, 0), *((1, page_bytes) for page_bytes in _PAGE_BYTES)):
        try:
            head = _head(descriptor, number, offset)
        except (_BadPageError, OSError, struct.error):
            continue
        if head.page_bytes in _PAGE_BYTES and offset in (0, head.page_bytes):
            yield head


def _head(descriptor: int, number: int, offset: int) -> _Head:
    bytes_max = _PAGE.size + _META.size + 2 * _TREE.size + _LAST.size
    head = os.pread(descriptor, bytes_max, offset)
    found, _, flags, _, _ = _PAGE.unpack_from(head)
    magic, version, *_ = _META.unpack_from(head, _PAGE.size)
    if (found, flags, magic, version) != (number, _META_PAGE, _MAGIC, _VERSION):
        raise _BadPageError
    free = _PAGE.size + _META.size
    main = free + _TREE.size
    end = main + _TREE.size
    page_bytes = _TREE.unpack_from(head, free)[0]  # stands with the tree of free pages
    trees = _tree_in(head[free:main]), _tree_in(head[main:end])
    return _Head(_LAST.unpack_from(head, end)[1], page_bytes, *trees)


def _tree_in(value: bytes) -> Tree:
    return Tree(*_TREE.unpack(value)[-2:])


class _File:
    def __init__(self, descriptor: int, page_bytes: int) -> None:
        self.page_bytes = page_bytes
        self.pages = os.fstat(descriptor).st_size // page_bytes
        self._descriptor = descriptor

    def page(self, number: int, kinds: tuple[int, ...], size: int = 0) -> tuple[int, bytes]:
        """Its kind and its bytes: one page of them, or `size` from where it begins."""
        size = size or self.page_bytes
        if not SNAPSHOTS <= number < self.pages:
            raise _BadPageError
        try:
            page = os.pread(self._descriptor, size, number * self.page_bytes)
        except OSError as error:  # a sector that cannot be read any more
            raise _BadPageError from error
        if len(page) < size:  # the file became shorter
            raise _BadPageError
        found, _, kind, _, _ = _PAGE.unpack_from(page)
        if found != number or kind not in kinds:
            raise _BadPageError
        return kind, page

    def long_value(self, number: int, size: int) -> bytes:
        """One with pages of its own, in a row behind one head."""
        if size > self.pages * self.page_bytes:
            raise _BadPageError
        return self.page(number, (_OVERFLOW,), _PAGE.size + size)[1][_PAGE.size :]


class _Walk:
    """The rows of one tree, in order. Once it has ended, `whole` says that every page of it
    was good, `orderly` that each row is where LMDB looks for it, beside its neighbours."""

    def __init__(self, file: _File, tree: Tree, *, ordered: bool = True) -> None:
        """`ordered`: as bytes are, which the free pages are not."""
        self.whole = self.orderly = True
        self._file = file
        self._tree = tree
        self._ordered = ordered

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        rows = 0
        for nodes in self._leaves():
            for size, flags, key, rest in nodes:
                try:
                    yield key, self._value(size, flags, rest)
                    rows += 1
                except _BadPageError:
                    self.whole = False
        self.whole = self.whole and rows == self._tree.entries

    def look(self, *, every_row: bool) -> None:
        """Without a use for the rows."""
        for _ in self if every_row else self._leaves(ends_only=True):
            pass

    def _leaves(self, *, ends_only: bool = False) -> Iterator[list[_Node]]:
        waiting: list[_Below] = (
            [] if self._tree.root == _NO_ROOT else [(self._tree.root, b"", None)]
        )
        seen: set[int] = set()
        while waiting:
            number, least, beyond = waiting.pop()
            try:
                if number in seen:
                    raise _BadPageError
                seen.add(number)
                kind, page = self._file.page(number, (_BRANCH, _LEAF))
                nodes = list(self._nodes(kind, page, ends_only=ends_only and kind == _LEAF))
            except _BadPageError:
                self.whole = False
                continue
            if kind == _BRANCH:
                waiting += reversed(_below(nodes, least, beyond))
                continue
            if nodes and self._ordered:
                first, last = nodes[0][2], nodes[-1][2]
                found = least <= first and (beyond is None or last < beyond)
                self.orderly = self.orderly and found
            yield nodes

    def _nodes(self, kind: int, page: bytes, *, ends_only: bool) -> Iterator[_Node]:
        _, _, _, pointers_end, begin = _PAGE.unpack_from(page)
        if not _PAGE.size <= pointers_end <= begin <= len(page):
            raise _BadPageError
        places = range(_PAGE.size, pointers_end - 1, _POINTER.size)
        ends: dict[int, int] = {}
        for at in (*places[:1], *places[1:][-1:]) if ends_only else places:
            (node,) = _POINTER.unpack_from(page, at)
            if not begin <= node <= len(page) - _NODE.size:
                self.whole = False
                continue
            size, flags, key_bytes = _NODE.unpack_from(page, node)
            key = node + _NODE.size
            if key + key_bytes > len(page):
                self.whole = False
                continue
            here = 0 if kind == _BRANCH else _NUMBER.size if flags & _BIG_VALUE else size
            ends[node] = key + key_bytes + here
            yield size, flags, page[key : key + key_bytes], page[key + key_bytes :]
        if not ends_only:
            self.orderly = self.orderly and _side_by_side(ends, begin, len(page))

    def _value(self, size: int, flags: int, rest: bytes) -> bytes:
        if flags & _BIG_VALUE and len(rest) >= _NUMBER.size:
            return self._file.long_value(_NUMBER.unpack_from(rest)[0], size)
        if flags not in (0, _TREE_VALUE) or size > len(rest):
            raise _BadPageError
        return rest[:size]


def _below(nodes: Sequence[_Node], least: bytes, beyond: bytes | None) -> list[_Below]:
    """Each page begins with the key that leads to it, the first with that of the branch."""
    begins = [least, *(key for _, _, key, _ in nodes[1:])]
    ends = [*begins[1:], beyond]
    children = [child | flags << _UPPER_BITS for child, flags, _, _ in nodes]
    return list(zip(children, begins, ends, strict=True))


def _side_by_side(ends: dict[int, int], begin: int, end: int) -> bool:
    """Each node begins at an even place."""
    at = begin
    for node in sorted(ends):
        if node != at:
            return False
        at = ends[node] + ends[node] % 2
    return at == end
