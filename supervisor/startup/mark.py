"""The mark of an instance: what a script carries in its environment, and nobody else can know.

It is of one boot and one state directory, and has a key in it that is kept in `state_dir`. So
whoever only knows the path of that makes no process look like a script that was left.
"""

import logging
import os
import re
import stat
from pathlib import Path

import msgspec

from ...ipc.digests import blake2b
from ...workers.host import procfs
from ...workers.host.files import open_regular, replace_whole

log = logging.getLogger(__name__)

KEY_FILE = "instance.key"
_KEY_BYTES = 32
_KEY = re.compile(rb"[0-9a-f]{%d}" % (2 * _KEY_BYTES))


class Mark(msgspec.Struct, frozen=True):
    """`instance` is the name of this boot and state directory, which anybody can compute;
    `text` is the mark. `earlier` are marks that also count in the sweep: where the key is new, the
    scripts of a build without one may be left, which carried the name."""

    instance: str
    text: str
    earlier: tuple[str, ...] = ()


def instance_of(state_dir: Path) -> str:
    """Return the name of this boot and state directory."""
    place = blake2b(os.fsencode(state_dir.resolve()), digest_size=6).hexdigest()
    return f"{procfs.boot_id()}-{place}"


def mark_of(state_dir: Path) -> Mark:
    """Return the mark of this boot and state directory. Where no key can be kept, it holds for
    this daemon alone: what it leaves is found by control groups and notes, and that is logged."""
    instance = instance_of(state_dir)
    path = state_dir / KEY_FILE
    key = _kept_key(path)
    if key is not None:
        return Mark(instance, _text(instance, key))
    key = os.urandom(_KEY_BYTES).hex().encode()
    try:
        replace_whole(path, key, durable=False)  # a power cut ends the boot, too
    except OSError as error:
        log.warning("Cannot keep %s: %s", path, error, extra={"event": "key-not-kept"})
    return Mark(instance, _text(instance, key), earlier=(instance,))


def _text(instance: str, key: bytes) -> str:
    return f"{instance}-{blake2b(instance.encode(), key=key, digest_size=16).hexdigest()}"


def _kept_key(path: Path) -> bytes | None:
    """Return the key; None where there is none, or none that only this user knows."""
    try:
        with open_regular(path, follow_links=False) as file:
            found = os.fstat(file.fileno())
            key = file.read(2 * _KEY_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("Cannot read %s: %s", path, error, extra={"event": "key-unreadable"})
        return None
    secret = found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077
    return key if secret and _KEY.fullmatch(key) else None
