"""What happened to daemonDB that a person has to know of, kept beside it until one says so.

A file of its own, because a store whose state has to be told of may not be there to tell.
"""

import logging
from pathlib import Path

import msgspec
from msgspec.structs import replace

from ....workers.host.files import fsync_path, replace_whole

log = logging.getLogger(__name__)

INCIDENTS_MAX = 20
FILE_BYTES_MAX = 64 * 1024
DETAIL_CHARS_MAX = 1000
_NAME = "incidents.json"


class Incident(msgspec.Struct, frozen=True, rename="camel"):
    """`at` is an instant as text. `set_aside` is where the old store is now, `backup` which
    copy the new one began with; "" where there is none."""

    at: str
    detail: str
    set_aside: str = ""
    backup: str = ""


_decode = msgspec.json.Decoder(tuple[Incident, ...]).decode


def read(store_dir: Path) -> tuple[Incident, ...]:
    """Oldest first. What cannot be read counts as none: it is no reason not to start."""
    try:
        with (store_dir / _NAME).open("rb") as file:
            return _decode(file.read(FILE_BYTES_MAX))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        log.warning("Cannot read what happened to daemonDB: %s", error)
        return ()


def add(store_dir: Path, incident: Incident, earlier: tuple[Incident, ...]) -> None:
    """Keep it, durably, with those that nobody has acknowledged. Raises `OSError`."""
    write(store_dir, (*earlier, incident))


def write(store_dir: Path, happened: tuple[Incident, ...]) -> None:
    """The newest of them, as many as are kept. Raises `OSError`."""
    kept = [_cut(incident) for incident in happened[-INCIDENTS_MAX:]]
    while len(encoded := msgspec.json.format(msgspec.json.encode(kept))) > FILE_BYTES_MAX:
        del kept[0]
    replace_whole(store_dir / _NAME, encoded, durable=True)


def _cut(incident: Incident) -> Incident:
    if len(incident.detail) <= DETAIL_CHARS_MAX:
        return incident
    return replace(incident, detail=f"{incident.detail[: DETAIL_CHARS_MAX - 1]}…")


def acknowledge(store_dir: Path) -> None:
    """A person has seen them. Raises `OSError`."""
    (store_dir / _NAME).unlink(missing_ok=True)
    fsync_path(store_dir)
