"""Foreign text shows every character that is in it."""

import json
import logging
import sys
from collections.abc import Iterator

import msgspec
import pytest
from geosched.ipc.foreign_text import visible, visible_json
from geosched.workers.host import log_lines

HIDDEN = {
    "\r": "\\r",
    "\n": "\\n",
    "\x1b[31m": "\\x1b[31m",
    "\x9b": "\\x9b",
    "\u202e": "\\u202e",  # right-to-left override
    "\u2066": "\\u2066",  # an isolate
    "\u200b": "\\u200b",  # zero width
    "\ufeff": "\\ufeff",
    "\u00ad": "\\xad",
    "\u3164": "\\u3164",  # a letter without ink
    "\u2028": "\\u2028",
    "\U000e0041": "\\U000e0041",  # a tag
    "\udce9": "\\udce9",
}
SEEN = ("Größe", "大きさ", "🙂", "נקודה", "a b", "c:\\n", "e\u0301")


@pytest.mark.parametrize("hidden", HIDDEN)
def test_what_is_hidden_is_shown_as_an_escape(hidden: str) -> None:
    assert visible(f"a{hidden}b") == f"a{HIDDEN[hidden]}b"


@pytest.mark.parametrize("seen", SEEN)
def test_what_can_be_seen_stays(seen: str) -> None:
    assert visible(seen) == seen


def test_a_character_that_a_caller_needs_is_kept() -> None:
    assert visible("a\nb\r", keep="\n") == "a\nb\\r"


@pytest.mark.parametrize("text", [*list(HIDDEN)[:-1], *SEEN])
def test_json_means_the_same_and_shows_escapes(text: str) -> None:
    shown = visible_json(msgspec.json.encode({"id": f"a{text}b"}))
    assert json.loads(shown) == {"id": f"a{text}b"}
    assert shown.decode().isprintable()


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("root_logger")
@pytest.mark.parametrize("style", ["text", "json"])
def test_the_log_shows_the_marks_that_an_id_hides(
    style: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log_lines.set_up("info", style, logging.StreamHandler(sys.stderr))
    logging.getLogger("geosched.test").info("Action %s", "a\u202eb\n", extra={"id": "a\u202eb"})
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "\\u202e" in line
    assert line.strip().isprintable()
