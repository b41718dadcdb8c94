"""Parsers and checks of single values: durations, sizes, signals, addresses, commands. Pure.

Each raises `ValueError` with a reason that does not name the key, which only `settings.py`
knows.
"""

import ipaddress
import re
import signal
import struct
from pathlib import Path
from urllib.parse import urlsplit

COMMAND_BYTES_MAX = 64 * 1024
ENV_BYTES_MAX = 64 * 1024
#: The id above it means "unchanged" to the kernel.
ID_MAX = 2**32 - 2
POINTER_BYTES = struct.calcsize("P")
#: Signals that end a program, or that programs take as the request to end.
STOP_SIGNALS = ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "ALRM", "WINCH", "ABRT", "KILL")
PLACEHOLDERS = ("id", "type", "apps", "from", "to", "run", "attempt")

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,12})(B|KiB|MiB|GiB)")


def seconds(value: object) -> float:
    """Return the seconds of a duration: `"500ms"` to `"14d"`, or the number 0."""
    if type(value) is int and value == 0:
        return 0.0
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f'expected a duration such as "500ms", "10s" or "5m", got {value!r:.60}')
    return float(found[1]) * _SECONDS[found[2]]


def size_bytes(value: object) -> int:
    """Return the bytes of a size: `"64KiB"` or `"8MiB"`, or a plain number."""
    if type(value) is int:
        return value
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f'expected a size such as "64KiB" or "8MiB", got {value!r:.60}')
    return int(found[1]) * _BYTES[found[2]]


def check_map_size(size_bytes: int, pointer_bytes: int = POINTER_BYTES) -> None:
    """Check the size of the store for a process whose pointers have so many bytes: where these
    are four, LMDB opens no file of 2 GiB or more (fact L37)."""
    if pointer_bytes < 8 and size_bytes >= 2 * _BYTES["GiB"]:
        raise ValueError("expected less than 2GiB, the most for a 32-bit Python")


def stop_signal(value: object) -> int:
    """Return the number of a signal, given as `"TERM"` or `"SIGTERM"`."""
    name = value.removeprefix("SIG") if isinstance(value, str) else None
    if name not in STOP_SIGNALS:
        raise ValueError(f"expected one of {', '.join(STOP_SIGNALS)}, got {value!r:.60}")
    return signal.Signals[f"SIG{name}"].value


def umask(value: object) -> int:
    """Return the bits of `"022"`, which is text because a number would be a decimal one."""
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError(f'expected an octal umask such as "022", got {value!r:.60}')
    return int(value, 8)


def path_below(base: Path, value: object) -> Path:
    """Return the path; one that is relative is relative to the directory `base`."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError(f"expected a path, got {value!r:.60}")
    return base / value


def check_person(name: str) -> None:
    """Check a user or group, by name or number; it need not exist."""
    if not name.isprintable():
        raise ValueError("has a control character in it")
    if name.isdecimal() and not name.isascii():
        raise ValueError("expected the digits 0 to 9")
    if re.fullmatch(r"-?[0-9]+", name) and not 0 <= int(name) <= ID_MAX:
        raise ValueError(f"expected a name or a number from 0 to {ID_MAX}, got {name:.60}")


def check_env(name: str, value: object) -> None:
    """Check a variable for scripts; the reason never repeats its value, perhaps a secret."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("is no name of a variable")
    if name.startswith(("GEOSCHED_", "WATCHDOG_")) or name == "NOTIFY_SOCKET":
        raise ValueError("is set by the daemon")
    if not isinstance(value, str):
        raise ValueError("expected text")
    if "\0" in value or len(value.encode()) > ENV_BYTES_MAX:
        raise ValueError(f"has a NUL character in it or is longer than {ENV_BYTES_MAX} bytes")


def check_url(url: str) -> None:
    """Check an address; the reason never repeats it, for there may be a password in it."""
    if not url.isprintable() or " " in url:
        raise ValueError("has a space or a control character in it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("is no address") from None
    if "@" in parts.netloc:
        raise ValueError("has credentials in it; use backend.token_file")
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError("expected http://… or https://… with a host")
    if "?" in url or "#" in url:
        raise ValueError("has a query or a fragment; paths are added at its end")


def check_oauth_url(url: str) -> None:
    """Check an address that secrets are sent to: over plain HTTP only on this host."""
    check_url(url)
    parts = urlsplit(url)
    if parts.scheme != "https" and not is_this_host(parts.hostname or ""):
        raise ValueError("expected https://…: secrets are sent there")


def check_proxy(url: str) -> None:
    """Check a proxy; the reason never repeats it, for there may be a password in it."""
    if "@" in url:
        raise ValueError("has credentials in it; proxies that want some are not supported")
    check_url(url)
    parts = urlsplit(url)
    if parts.scheme != "http" or parts.path not in ("", "/"):
        raise ValueError("expected http:// with a host and a port")


def is_this_host(name: str) -> bool:
    """A host's name or address cannot lead to another host."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        plain = name.lower().removesuffix(".")
        return plain == "localhost" or plain.endswith(".localhost")  # RFC 6761, 6.3
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def check_command(command: tuple[str, ...]) -> None:
    """Check a command: a lower-case word in braces is a placeholder, other braces are text."""
    if not command[0]:
        raise ValueError("its first part, the program, is empty")
    if sum(len(part.encode()) + 1 for part in command) > COMMAND_BYTES_MAX:
        raise ValueError(f"is longer than {COMMAND_BYTES_MAX} bytes")
    if any("\0" in part for part in command):
        raise ValueError("has a NUL character in it")
    if re.search(r"\{[a-z]+\}", command[0]):
        # Text from a backend must never choose what is executed (SPEC S20).
        raise ValueError("its first part, the program, takes no placeholder")
    for word in re.findall(r"\{([a-z]+)\}", " ".join(command[1:])):
        if word not in PLACEHOLDERS:
            known = " ".join(f"{{{name}}}" for name in PLACEHOLDERS)
            raise ValueError(f"unknown placeholder {{{word}}} (known: {known})")
