"""A verb stands in its message, its handler and its command, and in no list besides."""

import ast
import importlib
from pathlib import Path
from typing import get_args

import click
import pytest
from geosched.ipc.ctl.main import cli
from geosched.ipc.messages.control import Acting, Looking, Request
from support.paths import ROOT

VERBS = cli.list_commands(click.Context(cli))
#: Every file that a request passes through, whichever it is.
PASSED_THROUGH = [
    *(ROOT / "ipc/ctl").glob("*.py"),
    ROOT / "ipc/client.py",
    ROOT / "supervisor/control/server.py",
]


def names_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    imported = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return {alias.name for node in imported for alias in node.names}


@pytest.mark.parametrize("verb", VERBS)
def test_each_module_of_commands_is_a_verb(verb: str):
    command = importlib.import_module(f"geosched.ipc.ctl.commands.{verb}").command
    assert isinstance(command, click.Command)
    assert command.help


def test_each_request_needs_the_right_to_act_or_does_not():
    assert not set(get_args(Looking)) & set(get_args(Acting))
    assert set(get_args(Request)) == {*get_args(Looking), *get_args(Acting)}


def test_the_requests_that_need_the_right_to_act_are_those_of_the_documents():
    """As docs/settings.md has them: one that is listed among those that look is everybody's."""
    assert {request.__struct_config__.tag for request in get_args(Acting)} == {
        "sync",
        "compare",
        "stop",
        "outbox-flush",
        "outbox-drop",
        "acknowledge",
        "shutdown",
    }


@pytest.mark.parametrize("path", PASSED_THROUGH, ids=lambda path: path.name)
def test_what_all_requests_pass_through_names_none_of_them(path: Path):
    requests = {request.__name__ for request in get_args(Request)}
    assert not names_in(path) & {*requests, *VERBS}
