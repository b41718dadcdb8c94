"""Reader of LMDB's file format by its pages, without LMDB, which a damaged file kills (fact 3).

A file holds two snapshots: those of the last committed transaction and of the one before it,
whose pages are not used again yet. A damaged page costs the rows on it and below it, and
nothing else. Maps nothing, writes nothing, knows no table.
"""

import os
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

_WORD = "Q" if sys.maxsize > 2**32 else "I"
_PAGE = struct.Struct(f"={_WORD}HHHH")  # number, unused, flags, end of pointers, begin of nodes
_META = struct.Struct(f"=II{_WORD}{_WORD}")  # magic, version, address and size of the map
_TREE = struct.Struct(f"=IHH5{_WORD}")  # page size, flags, depth, three counts, entries, root
_LAST = struct.Struct(f"={_WORD}{_WORD}")  # last page, transaction
_NODE = struct.Struct("=IHH")  # size of the value or a child, flags, size of the key
_POINTER = struct.Struct("=H")
_NUMBER = struct.Struct(f"={_WORD}")
_PAGES = struct.Struct("=I")  # of a long value: in the place of the last two fields of the head

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 1, 2, 4, 8
_BIG_VALUE, _TREE_VALUE = 1, 2
_NO_ROOT = 2 ** (8 * _NUMBER.size) - 1
_PAGE_BYTES = (512, 1024, 2048, 4096, 8192, 16384, 32768)
SNAPSHOTS = 2
#: Size or child, flags, key, and the bytes after the key.
_Node: TypeAlias = tuple[int, int, bytes, bytes]
#: Page number, lower bound of its keys, and upper bound, exclusive.
_Below: TypeAlias = tuple[int, bytes, bytes | None]
#: The flags of a node that leads to a page are the upper part of its number.
_UPPER_BITS = 32


class Tree(NamedTuple):
    """A table's number of rows and root page."""

    entries: int
    root: int


class _MetaPage(NamedTuple):
    transaction: int
    page_bytes: int
    free: Tree
    main: Tree


class Found(msgspec.Struct):
    """The rows of a table that could be read; all of them if `whole`."""

    rows: dict[bytes, bytes] = msgspec.field(default_factory=dict)
    whole: bool = True


class _BadPageError(Exception):
    """A page is damaged, or not the one that should be there."""


class Snapshot:
    """The tables as one transaction committed them."""

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
        """Read a table; empty where there is none, and whole if that is certain."""
        tree = self._tables.get(name.encode())
        if tree is None:
            return Found(whole=self._trees.whole)
        walk = _Walk(self._file, tree)
        rows = dict(walk)
        return Found(rows, walk.whole)

    def fault(self, *, every_row: bool) -> str:
        """Return the first fault by which LMDB would miss or overwrite rows, in a line; else ""."""
        named = [(name.decode(errors="replace"), tree) for name, tree in self._tables.items()]
        used: set[int] = set()
        free: list[int] = []
        for name, tree in (("free pages", self._free), ("tables", self._main), *named):
            walk = _Walk(
                self._file,
                tree,
                ordered=tree is not self._free,
                flags_max=_TREE_VALUE if tree is self._main else _BIG_VALUE,
                used=used,
            )
            if tree is self._free and every_row:
                free = [page for _, value in walk for page in _free_pages(value)]
            else:
                walk.look(every_row=every_row)
            if not (walk.whole and walk.orderly):
                return f"a page of the {name} is not as it was written"
        if len(set(free)) < len(free) or not used.isdisjoint(free):
            return "a page that is used counts as free"
        return ""


def fault_in(data: Path, *, every_row: bool = True) -> str:
    """Return the first fault of the newest snapshot, in a line; else "". Raises `OSError`.

    Stricter than LMDB's verifier: the nodes of each page have to be adjacent, or the removal
    of one would destroy others; and keys have to be within the bounds that the branches above
    them give, or they are not found. Without `every_row` only both ends of each leaf are read, and
    neither long values nor which pages are free: enough beside the verifier.
    """
    for snapshot in snapshots(data):
        return snapshot.fault(every_row=every_row)
    return "it has no head"


def snapshots(data: Path) -> Iterator[Snapshot]:
    """Yield the newest snapshot, then the one before; fewer where a meta page is damaged.

    One can be read for as long as the iteration lasts. Raises `OSError` where the file cannot
    be opened.
    """
    descriptor = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = _meta_pages(descriptor)
        for _, page_bytes, free, main in sorted(found, reverse=True):
            yield Snapshot(_File(descriptor, page_bytes), free, main)
    finally:
        os.close(descriptor)


def _meta_pages(descriptor: int) -> Iterator[_MetaPage]:
    """Yield the meta pages that can be read. The second is tried at each possible page size,
    because a damaged first one does not tell it."""
    for number, offset in ((0, 0), *((1, page_bytes) for page_bytes in _PAGE_BYTES)):
        try:
            head = _meta_page(descriptor, number, offset)
        except (_BadPageError, OSError, struct.error):
            continue
        if head.page_bytes in _PAGE_BYTES and offset in (0, head.page_bytes):
            yield head


def _meta_page(descriptor: int, number: int, offset: int) -> _MetaPage:
    bytes_max = _PAGE.size + _META.size + 2 * _TREE.size + _LAST.size
    head = os.pread(descriptor, bytes_max, offset)
    found, _, flags, _, _ = _PAGE.unpack_from(head)
    magic, version, *_ = _META.unpack_from(head, _PAGE.size)
    if (found, flags, magic, version) != (number, _META_PAGE, _MAGIC, _VERSION):
        raise _BadPageError
    free = _PAGE.size + _META.size
    main = free + _TREE.size
    end = main + _TREE.size
    page_bytes = _TREE.unpack_from(head, free)[0]  # kept in the tree of free pages
    trees = _tree_in(head[free:main]), _tree_in(head[main:end])
    return _MetaPage(_LAST.unpack_from(head, end)[1], page_bytes, *trees)


def _tree_in(value: bytes) -> Tree:
    return Tree(*_TREE.unpack(value)[-2:])


class _File:
    """The pages of an open file."""

    def __init__(self, descriptor: int, page_bytes: int) -> None:
        self.page_bytes = page_bytes
        self.pages = os.fstat(descriptor).st_size // page_bytes
        self._descriptor = descriptor

    def page(self, number: int, kinds: tuple[int, ...], size: int = 0) -> tuple[int, bytes]:
        """Return the kind of a page and its bytes, or `size` bytes from its start on.

        Raises `_BadPageError` for a page of another number, or of none of the `kinds`.
        """
        size = size or self.page_bytes
        if not SNAPSHOTS <= number < self.pages:
            raise _BadPageError
        try:
            page = os.pread(self._descriptor, size, number * self.page_bytes)
        except OSError as error:  # an unreadable sector
            raise _BadPageError from error
        if len(page) < size:  # the file became shorter
            raise _BadPageError
        found, _, kind, _, _ = _PAGE.unpack_from(page)
        if found != number or kind not in kinds:
            raise _BadPageError
        return kind, page

    def long_value(self, number: int, size: int) -> tuple[bytes, range]:
        """Return a value on pages of its own, which follow each other after one page header, and
        which pages LMDB takes for its."""
        if size > self.pages * self.page_bytes:
            raise _BadPageError
        page = self.page(number, (_OVERFLOW,), _PAGE.size + size)[1]
        (count,) = _PAGES.unpack_from(page, _PAGE.size - _PAGES.size)
        return page[_PAGE.size :], range(number, number + count)


class _Walk:
    """The rows of one tree, in order. After the iteration `whole` tells that every page was
    sound, `orderly` that each row is where LMDB looks for it, adjacent to its neighbours."""

    def __init__(
        self,
        file: _File,
        tree: Tree,
        *,
        ordered: bool = True,
        flags_max: int = _TREE_VALUE,
        used: set[int] | None = None,
    ) -> None:
        """`ordered`: keys sort as bytes do; those of the free pages do not. `flags_max`: only the
        tree of the tables has trees for values. `used` are the pages that are met, those of other
        trees too: a page has one use."""
        self._flags_max = flags_max
        self._used = set() if used is None else used
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
        """Walk the tree for `whole` and `orderly` alone."""
        for _ in self if every_row else self._leaves(ends_only=True):
            pass

    def _leaves(self, *, ends_only: bool = False) -> Iterator[list[_Node]]:
        waiting: list[_Below] = (
            [] if self._tree.root == _NO_ROOT else [(self._tree.root, b"", None)]
        )
        while waiting:
            number, least, beyond = waiting.pop()
            try:
                if number in self._used:
                    raise _BadPageError
                self._used.add(number)
                kind, page = self._file.page(number, (_BRANCH, _LEAF))
                nodes = list(self._nodes(kind, page, ends_only=ends_only and kind == _LEAF))
                if kind == _BRANCH and not nodes:
                    raise _BadPageError
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
            self.orderly = self.orderly and (kind == _BRANCH or flags <= self._flags_max)
            yield size, flags, page[key : key + key_bytes], page[key + key_bytes :]
        if not ends_only:
            self.orderly = self.orderly and _side_by_side(ends, begin, len(page))

    def _value(self, size: int, flags: int, rest: bytes) -> bytes:
        if flags & _BIG_VALUE and len(rest) >= _NUMBER.size:
            value, pages = self._file.long_value(_NUMBER.unpack_from(rest)[0], size)
            self.orderly = self.orderly and self._takes(pages, _PAGE.size + size)
            return value
        if flags not in (0, _TREE_VALUE) or size > len(rest):
            raise _BadPageError
        return rest[:size]

    def _takes(self, pages: range, size: int) -> bool:
        """Note the pages of a long value; False where they cannot be its own, or are too few."""
        enough = len(pages) * self._file.page_bytes >= size
        if not enough or pages.stop > self._file.pages or not self._used.isdisjoint(pages):
            return False
        self._used.update(pages)
        return True


def _free_pages(value: bytes) -> Sequence[int]:
    """Return the numbers in a row of the free pages, which begins with how many there are."""
    numbers = [
        number
        for (number,) in _NUMBER.iter_unpack(value[: len(value) // _NUMBER.size * _NUMBER.size])
    ]
    return numbers[1 : numbers[0] + 1] if numbers else numbers


def _below(nodes: Sequence[_Node], least: bytes, beyond: bytes | None) -> list[_Below]:
    """Return the children of a branch with their bounds: a node's key is the lower one; the
    first child has that of the branch."""
    begins = [least, *(key for _, _, key, _ in nodes[1:])]
    ends = [*begins[1:], beyond]
    children = [child | flags << _UPPER_BITS for child, flags, _, _ in nodes]
    return list(zip(children, begins, ends, strict=True))


def _side_by_side(ends: dict[int, int], begin: int, end: int) -> bool:
    """The nodes fill the bytes from `begin` to `end`; each begins at an even offset."""
    at = begin
    for node in sorted(ends):
        if node != at:
            return False
        at = ends[node] + ends[node] % 2
    return at == end
