"""Text of a new configuration: the example that ships, with its comments, for one backend. Pure.

Every comment is the example's own. Keys that a backend or a way to authenticate has no use for are
left out.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ....ipc.backends import BACKENDS

_HEADING = re.compile(r"\[([a-z.]+)\]")
#: A key, or one that the example only mentions.
_KEY = re.compile(r"(?:# )?([a-z_]+) = ")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_DELETE = "\x7f"

_NETWORK = ("url", "token_file", "auth", "ca_file", "client_cert", "client_key", "proxy")
_OAUTH = (
    "oauth_grant",
    "oauth_token_url",
    "oauth_device_url",
    "oauth_client_id",
    "oauth_client_secret_file",
    "oauth_audience",
    "oauth_scope",
)


def filled(example: str, values: Mapping[str, Any]) -> str:
    """Return the example with these values of its keys, as `backend.url`; a key that it only
    mentions is set where it has one. Raises `ValueError` for a key that it does not have, and for
    a value that TOML has not."""
    left_out = _without(values)
    unset = dict(values)
    lines: list[str] = []
    comment: list[str] = []
    section = ""
    for line in example.splitlines():
        if heading := _HEADING.fullmatch(line):
            section = heading[1]
            lines += [*comment, line]
            comment.clear()
            continue
        named = _KEY.match(line)
        if named is None:
            comment.append(line)
            continue
        key = f"{section}.{named[1]}"
        if key in left_out:
            comment.clear()
            continue
        lines += comment
        comment.clear()
        lines.append(f"{named[1]} = {toml(unset.pop(key))}" if key in unset else line)
    if unset:
        raise ValueError(f"there is no key {next(iter(unset))}")
    return "\n".join([*lines, *comment]) + "\n"


def _without(values: Mapping[str, Any]) -> set[str]:
    """Return the keys that this backend has no use for, but for those that have a value."""
    kind = BACKENDS.get(values.get("backend.kind", "http"))
    unused: list[str] = []
    if kind is not None and kind.needs != "path":
        unused.append("path")
    if kind is not None and kind.local:
        unused += _NETWORK
    if values.get("backend.auth") != "oauth":
        unused += _OAUTH
    return {f"backend.{key}" for key in unused} - values.keys()


def toml(value: Any) -> str:
    """Return a value as TOML. Raises `ValueError` for one that it has not."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return _text(value)
        case list() | tuple():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return f"{{ {', '.join(_pairs(value))} }}" if value else "{}"
    raise ValueError(f"{value!r} is no value of a configuration")


def _pairs(table: Mapping[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        yield f"{key if _BARE_KEY.fullmatch(key) else _text(key)} = {toml(value)}"


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} is not UTF-8") from None
    # JSON's escapes are TOML's; this one TOML wants, and JSON does not.
    return json.dumps(text, ensure_ascii=False).replace(_DELETE, "\\u007f")
