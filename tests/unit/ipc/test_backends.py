"""A kind of backend is its own module and one row of a table; nothing else compares kinds."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from geosched.ipc.backends import BACKENDS
from geosched.ipc.messages.sync import BackendAddress, ErrorKind, Pull
from geosched.workers.sync.base import Backend, ExchangeError
from geosched.workers.sync.synchroniser import carry_out, load_backend
from support.paths import ROOT

TABLE = ROOT / "ipc/backends.py"
IMPLEMENTATIONS = ROOT / "workers/sync/backends"
#: The words "http" and "file" mean other things too: only what is compared with one of these
#: names is a kind. The schemes of a url are in attributes of their own.
SCHEMES = {"scheme"}


def module_of(kind: str) -> Path:
    return IMPLEMENTATIONS / f"{BACKENDS[kind].implementation.partition(':')[0]}.py"


ALLOWED = {TABLE, *(module_of(kind) for kind in BACKENDS)}
PRODUCT = [
    path for folder in ("ipc", "workers", "supervisor") for path in (ROOT / folder).rglob("*.py")
]


def kinds_in(node: ast.AST) -> set[str]:
    """The kinds among the literals of an expression or a pattern."""
    literals = (each.value for each in ast.walk(node) if isinstance(each, ast.Constant))
    return {value for value in literals if isinstance(value, str) and value in BACKENDS}


def is_scheme(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and node.attr in SCHEMES


def comparisons(source: str) -> Iterator[int]:
    """The lines that compare something with a registered kind, or match it against one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if not any(map(is_scheme, sides)) and any(map(kinds_in, sides)):
                yield node.lineno
        elif isinstance(node, ast.Match) and not is_scheme(node.subject):
            yield from (node.lineno for case in node.cases if kinds_in(case.pattern))


@pytest.mark.parametrize(
    "source",
    [
        'if backend.kind == "file": pass',
        'if "file" != kind: pass',
        'local = settings.kind in ("trpc", "file")',
        'match kind:\n    case "http" | "trpc": pass',
        'match kind:\n    case str("file"): pass',
    ],
)
def test_a_comparison_of_kinds_is_found(source: str) -> None:
    assert list(comparisons(source))


@pytest.mark.parametrize(
    "source",
    ['parts.scheme != "http"', 'if kind == "other": pass', 'BACKENDS["file"]', 'x = "file"'],
)
def test_what_is_no_comparison_of_kinds_is_not_found(source: str) -> None:
    assert list(comparisons(source)) == []


def test_nobody_compares_kinds_but_the_table_and_the_backends_themselves() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): lines
        for path in PRODUCT
        if path not in ALLOWED and (lines := list(comparisons(path.read_text())))
    }
    assert found == {}


def test_nobody_names_the_module_of_a_backend() -> None:
    """Or a process would import what it has no use for: `load_backend` does, late."""
    names = {module_of(kind).stem for kind in BACKENDS}
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[-1] in names:
                assert "backends" not in (node.module or "").split("."), path


@pytest.mark.parametrize("kind", BACKENDS)
def test_each_row_gives_a_backend(kind: str) -> None:
    assert module_of(kind).is_file()
    module, _, name = BACKENDS[kind].implementation.partition(":")
    implementation = getattr(
        importlib.import_module(f"geosched.workers.sync.backends.{module}"), name
    )
    assert Backend in implementation.__mro__
    assert isinstance(load_backend(kind), implementation)


def test_each_module_of_a_backend_has_a_row() -> None:
    modules = {path for path in IMPLEMENTATIONS.glob("*.py") if path.stem != "__init__"}
    assert modules == {module_of(kind) for kind in BACKENDS}


def test_a_kind_without_a_row_is_a_failed_exchange() -> None:
    with pytest.raises(ExchangeError, match="there is none"):
        load_backend("carrier-pigeon")
    (failed,) = carry_out(Pull(7, BackendAddress("carrier-pigeon"), 0))
    assert (failed.exchange, failed.kind) == (7, ErrorKind.LOCAL)
