"""What imports what (DESIGN 2): checked here, not by memory.

Every check collects all offenders, so that one failure shows all there is to mend.
"""

import ast
import configparser
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "geosched"
LINES_MAX = 450

#: Of each folder the children, lowest floor first: a child imports only children below its own
#: floor. `__init__` files hold a docstring and nothing else, and are no children.
FLOORS = {
    "": ("ipc", "workers", "supervisor"),
    "ipc": (
        "decoding regular_files",
        "backends digests failpoints foreign_text instants paths signals standard_streams"
        " thread_probe unwanted_descriptors wire zmtp",
        "actions dealer environment sockets",
        "channel connection messages",
        "router",
        "client",
        "ctl",
    ),
    "ipc/ctl": ("exits options table", "words", "printing", "tool", "commands", "main"),
    "workers": ("host zygote_client", "runfiles sync", "helper runs", "zygote"),
    "workers/sync": (
        "allowance base",
        "backend_files bodies",
        "broker http",
        "auth synchroniser",
        "backends",
    ),
    "supervisor": (
        "core",
        "config participant",
        "host periodic",
        "runs store",
        "scheduler startup sync upkeep",
        "login loop",
        "control jobs",
        "service",
        "daemon",
    ),
    "supervisor/store": (
        "errors",
        "files",
        "py_lmdb",
        "lmdb_env",
        "tables",
        "repair",
        "daemondb",
        "tools",
        "open",
    ),
    "supervisor/sync": ("backoff", "exchange", "apply report_sender", "compare", "manager"),
}
#: What of `workers` the supervisor may import: all else is the child processes' own.
WORKERS_SHARED = {"host", "runfiles", "zygote_client"}
#: These can read no clock, no file, no socket and no chance, wherever they lie.
PURE = (
    "ipc/zmtp.py",
    "supervisor/core",
    "supervisor/scheduler/queue.py",
    "workers/host/liveness.py",
)
PURE_MAY_IMPORT = {
    "geosched.supervisor.core",
    "geosched.ipc.actions",
    "geosched.ipc.digests",
    "geosched.ipc.instants",
    "geosched.ipc.messages",
    "msgspec",
    "collections",
    "dataclasses",
    "enum",
    "heapq",
    "typing",
}
IMPORTERS = {
    "zmq": {"ipc/sockets.py"},
    "lmdb": {"supervisor/store/py_lmdb.py"},
    "requests": {"workers/sync/http/client.py"},
    "ctypes": {"workers/host/linux.py"},
    "schedule": {"supervisor/periodic.py"},
    "rich": {"ipc/ctl/printing.py"},
}

LAYERS = FLOORS[""]
MODULES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
PRODUCT = [ROOT / "__init__.py", *MODULES]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def offenders(
    paths: Iterable[Path], check: Callable[[Path], Iterable[object]]
) -> dict[str, list[object]]:
    """What `check` finds wrong, by file; a file without fault is not in it."""
    found = {relative(path): sorted(set(check(path)), key=str) for path in paths}
    return {name: faults for name, faults in found.items() if faults}


def imported(path: Path, tree: ast.AST | None = None) -> Iterator[str]:
    """The full name of everything a module imports, late imports included.

    `from x import y` gives both `x` and `x.y`, because `y` may be a module of its own.
    """
    package = [PACKAGE, *path.relative_to(ROOT).parent.parts]
    for node in ast.walk(tree or ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def imported_early(path: Path) -> Iterator[str]:
    """What a module needs to be imported at all: functions' own imports come later."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return imported(path, tree)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def importers_of(library: str) -> set[str]:
    return {
        relative(path) for path in PRODUCT if any(within(name, library) for name in imported(path))
    }


@pytest.mark.parametrize("folder", FLOORS)
def test_imports_lead_down_and_each_child_has_its_floor(folder: str):
    """Which is also why no two children import each other in a circle."""
    floor_of = {
        child: number for number, floor in enumerate(FLOORS[folder]) for child in floor.split()
    }
    children = {path: child_of(relative(path), folder) for path in MODULES}
    assert {child for child in children.values() if child} == floor_of.keys()

    def leads_up(path: Path) -> Iterator[str]:
        for name in imported(path):
            met = child_of(name.removeprefix(f"{PACKAGE}.").replace(".", "/"), folder)
            own = children[path] or ""
            if met in floor_of and met != own and floor_of[met] >= floor_of[own]:
                yield name

    assert offenders((path for path, child in children.items() if child), leads_up) == {}


def child_of(path: str, folder: str) -> str | None:
    """The child of a folder that a path lies in; None for a path elsewhere and for `__init__`."""
    inside = path.removeprefix(f"{folder}/" if folder else "")
    if folder and inside == path:
        return None
    child = inside.split("/")[0].removesuffix(".py")
    return None if child == "__init__" else child


def test_of_the_workers_the_supervisor_knows_only_what_both_sides_must():
    def foreign(path: Path) -> Iterator[str]:
        for name in imported(path):
            parts = name.split(".")
            if parts[:2] == [PACKAGE, "workers"] and not {*parts[2:3]} <= WORKERS_SHARED:
                yield name

    assert offenders((ROOT / "supervisor").rglob("*.py"), foreign) == {}


def test_what_is_pure_imports_nothing_that_touches():
    def foreign(path: Path) -> Iterator[str]:
        for name in imported(path):
            # `from ...ipc import digests` names the package first; the module counts.
            is_package = name in ("geosched.ipc", "geosched.supervisor")
            if not is_package and not any(within(name, allowed) for allowed in PURE_MAY_IMPORT):
                yield name

    pure = [path for path in MODULES if relative(path).startswith(PURE)]
    assert offenders(pure, foreign) == {}


@pytest.mark.parametrize("library", IMPORTERS)
def test_each_library_has_one_importer(library):
    assert importers_of(library) == IMPORTERS[library]


def test_errors_of_decoding_are_caught_by_their_one_name():
    """What is no `ValueError` in every version of msgspec would end a process. Only TOML, which
    `tomllib` reads, is not decoded by it."""

    def own_list(path: Path) -> Iterator[int]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Tuple):
                names = {each.id for each in node.elts if isinstance(each, ast.Name)}
                if {"ValueError", "RecursionError"} <= names:
                    yield node.lineno

    assert list(offenders(PRODUCT, own_list)) == ["ipc/decoding.py"]


def test_only_the_control_client_knows_click():
    found = importers_of("click")
    assert found
    assert {name for name in found if not name.startswith("ipc/ctl/")} == set()


def test_rich_is_imported_only_when_a_table_is_drawn():
    early = imported_early(ROOT / "ipc/ctl/printing.py")
    assert not any(within(name, "rich") for name in early)


def test_inside_the_package_imports_are_relative():
    """The bare names of our folders would find other packages on some hosts."""

    def absolute(path: Path) -> Iterator[str]:
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            yield from (name for name in names if name.split(".")[0] in (PACKAGE, *LAYERS))

    assert offenders(PRODUCT, absolute) == {}


def test_no_import_is_a_circle():
    def name_of(path: Path) -> str:
        return ".".join([PACKAGE, *path.relative_to(ROOT).with_suffix("").parts])

    needs = {name_of(path): set(imported_early(path)) for path in MODULES}
    while free := {name for name, needed in needs.items() if not needed & needs.keys()}:
        needs = {name: needed for name, needed in needs.items() if name not in free}
    assert needs == {}


def test_a_package_holds_a_docstring_and_its_modules_the_code():
    packages = [path for path in MODULES if path.name == "__init__.py"]
    assert offenders(packages, lambda path: ast.parse(path.read_text()).body[1:]) == {}


def test_every_module_says_what_it_is_for():
    silent = [path for path in PRODUCT if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


def test_no_file_is_too_long_to_be_read_at_once():
    def lines(path: Path) -> Iterator[int]:
        count = len(path.read_text().splitlines())
        if count > LINES_MAX:
            yield count

    assert offenders(PRODUCT, lines) == {}


def test_every_package_is_listed_and_every_listed_package_is_there():
    """An editable install hides a missing one; the wheel would lack it."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    folders = {path.parent for path in MODULES}
    assert {
        relative(folder) for folder in folders if not (folder / "__init__.py").exists()
    } == set()
    there = {".".join([PACKAGE, *folder.relative_to(ROOT).parts]) for folder in folders}
    assert set(setup["options"]["packages"].split()) == {PACKAGE} | there
