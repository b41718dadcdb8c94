"""Incidents of daemonDB, kept in a file beside it until a person acknowledges them.

Not in the store, which an incident may be the loss of.
"""

import logging
from pathlib import Path

import msgspec
from msgspec.structs import replace

from ....ipc.decoding import DECODE_ERRORS
from ....workers.host.files import fsync_path, open_regular, replace_whole

log = logging.getLogger(__name__)

INCIDENTS_MAX = 20
FILE_BYTES_MAX = 64 * 1024
DETAIL_CHARS_MAX = 1000
_NAME = "incidents.json"


class Incident(msgspec.Struct, frozen=True, rename="camel"):
    """Damage that was repaired, or a store that was replaced.

    `at` is an instant as text. `set_aside` is the directory of the old store, `backup` the
    one that the new store began with; "" for none.
    """

    at: str
    detail: str
    set_aside: str = ""
    backup: str = ""


_decode = msgspec.json.Decoder(tuple[Incident, ...]).decode


def read(store_dir: Path) -> tuple[Incident, ...]:
    """Return the incidents, oldest first; none where the file cannot be read: the daemon starts."""
    try:
        with open_regular(store_dir / _NAME) as file:
            return _decode(file.read(FILE_BYTES_MAX))
    except FileNotFoundError:
        return ()
    except (OSError, *DECODE_ERRORS) as error:
        log.warning("Cannot read what happened to daemonDB: %s", error)
        return ()


def add(store_dir: Path, incident: Incident, earlier: tuple[Incident, ...]) -> None:
    """Write an incident, durably, after the `earlier` ones. Raises `OSError`."""
    write(store_dir, (*earlier, incident))


def write(store_dir: Path, happened: tuple[Incident, ...]) -> None:
    """Write the newest incidents, as many as are kept, durably. Raises `OSError`."""
    kept = [_cut(incident) for incident in happened[-INCIDENTS_MAX:]]
    while len(encoded := msgspec.json.format(msgspec.json.encode(kept))) > FILE_BYTES_MAX:
        del kept[0]
    replace_whole(store_dir / _NAME, encoded, durable=True)


def _cut(incident: Incident) -> Incident:
    if len(incident.detail) <= DETAIL_CHARS_MAX:
        return incident
    return replace(incident, detail=f"{incident.detail[: DETAIL_CHARS_MAX - 1]}…")


def acknowledge(store_dir: Path) -> None:
    """Remove all incidents: a person has seen them. Raises `OSError`."""
    (store_dir / _NAME).unlink(missing_ok=True)
    fsync_path(store_dir)
