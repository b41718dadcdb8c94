"""Targets: the configuration file, and the values in it and in other texts."""

from pathlib import Path

import msgspec
from geosched.ipc.instants import format_instant, parse_instant
from geosched.supervisor.config import derived, descriptors, parsers, settings
from geosched.supervisor.config.sections import SettingsError
from geosched.supervisor.runs.run_order import conditions_of
from geosched.supervisor.startup import preflight
from geosched.workers.sync.http.errors import shown

from .oracle import Feed, Target


def _file(directory: Path) -> Feed:
    def feed(data: bytes) -> bool:
        read = settings.parse(data, directory / "geosched.toml")
        msgspec.msgpack.encode(derived.address(read.backend))
        derived.rules_of(read, "g")
        descriptors.Descriptors.within(1024).cut(read)
        for script in read.scripts.values():
            msgspec.msgpack.encode(conditions_of(script))
        return True

    return feed


def _host(directory: Path) -> Feed:
    """What the file names is looked for on the host."""

    def feed(data: bytes) -> bool:
        read = settings.parse(data, directory / "geosched.toml")
        for line in (*preflight.check(read), *preflight.remarks(read), *preflight.warnings(read)):
            line.encode()
        return True

    return feed


def _instant(_: Path) -> Feed:
    def feed(data: bytes) -> bool:
        format_instant(parse_instant(data.decode()))
        return True

    return feed


def _values(_: Path) -> Feed:
    """Each parser of a value; it reads the text or raises `ValueError`."""
    readers = (
        parsers.seconds,
        parsers.size_bytes,
        parsers.stop_signal,
        parsers.umask,
        parsers.check_person,
        parsers.check_url,
        parsers.check_oauth_url,
        parsers.check_proxy,
        lambda text: parsers.check_env(text, text),
        lambda text: parsers.check_command((text,)),
        lambda text: parsers.path_below(Path("/"), text),
    )

    def feed(data: bytes) -> bool:
        text = data.decode()
        read = 0
        for reader in readers:
            try:
                reader(text)
                read += 1
            except ValueError:
                continue
        shown(text)
        return read > 0

    return feed


_SMALL = b"""\
[daemon]
state_dir = "s"
runtime_dir = "r"
map_size = "64MiB"
max_running = 3
clock_wait = "10m"
[backend]
kind = "http"
url = "https://example.org/api"
timeout = "30s"
[scripts.default]
command = ["/bin/true", "{id}"]
user = "1000"
env = { A = "b" }
[scripts.default.limits]
cpu = "10s"
address_space = "1GiB"
[control]
operators = ["root", 0]
"""
_WORDS = (
    *(
        b"[backend]",
        b"[scripts.a]",
        b"= 1979-05-27T07:32:00Z",
        b'"""',
        b"'''",
        b"0x",
        b"inf",
        b"nan",
    ),
    *(b"1e400", b"9" * 4301, b"\\u0000", b"\\uD800", b"\\U00110000", b'"64GiB"', b'"9999d"', b"[["),
    *("\u0663" * n for n in (1, 40)),
    b'kind = "file"',
    b'path = "a"',
    b'auth = "oauth"',
    b"\xef\xbb\xbf",
    b'proxy = "http://p:1"',
)
WORDS = tuple(word if isinstance(word, bytes) else word.encode() for word in _WORDS)
_OTHER = b"""\
daemon.retention = "14d"
daemon.backup_interval = "0s"
[backend]
kind = "file"
path = "actions.json"
poll_interval = "200ms"
[scripts."a.b"]
command = ["sh", "-c", "echo {id}"]
stop_signal = "INT"
umask = "022"
nice = -5
restart = "on-failure"
restart_delay = "500ms"
"""
_INSTANTS = (
    *(b"2026-11-23T08:00:00Z", b"2026-11-23T08:00:00.123456+01:00", b"9999-12-31T23:59:59-23:59"),
    *(b"0001-01-01T00:00:00+23:59", b"20261123T080000Z", b"2026-W48-1T08:00:00+00:00:01.5"),
)
_TEXTS = (
    *(b"500ms", b"14d", b"64KiB", b"SIGTERM", b"022", b"nobody", b"4294967294", b"/srv/x"),
    *(b"http://[::1]:80/a", b"https://example.org", b"http://127.1:1", b"PATH", b"{id} {from}"),
)

TARGETS = (
    Target("configuration file", (_SMALL, _OTHER), _file, (SettingsError,), WORDS),
    Target("configuration on the host", (_SMALL,), _host, (SettingsError,), WORDS, share=0.01),
    Target("instant", _INSTANTS, _instant, (ValueError,)),
    Target(
        "value of a setting", _TEXTS, _values, (ValueError,), (b"://", b"@", b"[", b"%", b"GiB")
    ),
)
