"""Foreign text made visible: ids, texts of scripts and answers of backends, wherever a person
reads them.

A control character could move the cursor or end a line, a format character reverse or hide what
follows (Unicode's bidirectional marks): they are shown as escapes.
"""

import re

#: Blank though Unicode calls them letters or marks: fillers, joiners, invisible vowels.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")
#: In JSON the escape is the same text; what is below is escaped already.
_BEYOND_ASCII = re.compile("[^\\x00-\\x7e]")


def visible(text: str, *, keep: str = "") -> str:
    """Return the text with a visible escape, as `\\r` or `\\u202e`, for each character that is
    none to see, but for those in `keep`."""
    if text.isprintable() and _BLANK.isdisjoint(text):
        return text
    return "".join(char if _is_seen(char) or char in keep else _escape(char) for char in text)


def visible_json(document: bytes) -> bytes:
    """Return an encoded JSON document with escapes in its texts; it means the same."""
    if document.isascii():
        return document
    return _BEYOND_ASCII.sub(_json_escape, document.decode()).encode()


def _is_seen(char: str) -> bool:
    return char.isprintable() and char not in _BLANK


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _json_escape(found: re.Match[str]) -> str:
    char = found[0]
    if _is_seen(char):
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
