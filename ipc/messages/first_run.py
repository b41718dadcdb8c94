"""Messages of the first run on a host: what `geosched-ctl init` wants written, and what
`geosched-ctl doctor` finds. Each is JSON, on a line of its own.

What a probe says has bounds in every field: it reads the network, and may have been taken over.
"""

import enum
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from ..instants import InstantUs
from .base import Count
from .sync import DETAIL_CHARS_MAX, ErrorKind

#: Certificates that a probe tells of: that of the backend, and of its token server.
CERTIFICATES_MAX = 4
NAME_CHARS_MAX = 300


class State(enum.StrEnum):
    """What a finding asks of the operator."""

    FINE = "fine"
    WORTH_KNOWING = "worth-knowing"
    TO_DO = "to-do"


class Finding(msgspec.Struct, frozen=True, rename="camel"):
    """A look at one subject of the host: what was `seen`, what that `means` for windows, and what
    to do about it, "" for nothing."""

    name: str
    state: State
    seen: str
    means: str
    todo: str = ""


class Dates(msgspec.Struct, frozen=True):
    """The time in which a certificate is valid. `of` is the address, or the file, that has it."""

    of: Annotated[str, Meta(max_length=NAME_CHARS_MAX)]
    begins_us: InstantUs
    ends_us: InstantUs


class Probed(msgspec.Struct, frozen=True):
    """One pull from the backend that was applied nowhere. `failed` is None for a whole answer.
    `ahead_seconds` is by how much the backend's clock is ahead of this host's, None where it did
    not tell."""

    failed: ErrorKind | None = None
    detail: Annotated[str, Meta(max_length=DETAIL_CHARS_MAX)] = ""
    actions: Count = 0
    set_aside: Count = 0
    ahead_seconds: Annotated[float, Meta(ge=-1e12, le=1e12)] | None = None
    certificates: Annotated[tuple[Dates, ...], Meta(max_length=CERTIFICATES_MAX)] = ()


class Wanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The configuration that an operator wants written to `config`.

    `values` are keys of it, as `backend.url`, with their values. `secret` is the text of the token
    or of the client's secret, "" for none; it is written into the file that `values` names, or
    beside the configuration. `directory` holds the daemon's own directories, "" for the usual
    ones. `overwrite`: files that are there are replaced.
    """

    config: str
    values: dict[str, Any]
    secret: str = ""
    directory: str = ""
    overwrite: bool = False


class _Answer(msgspec.Struct, frozen=True, tag_field="event", rename="camel"):
    """The base of what comes of a wish, told apart by field `event`."""


class Written(_Answer, frozen=True, tag="written"):
    """A configuration that `geoschedd --check` has no fault of, but for those in `left`, which the
    commands `next` are for.

    `enable` are the commands, as text, by which this host's init runs the daemon from now on, ""
    where it has no unit for it or runs it already; `init` is its name.
    """

    config: str
    made: tuple[str, ...]
    warnings: tuple[str, ...]
    left: tuple[str, ...]
    next: tuple[str, ...]
    init: str
    enable: str


class Enabled(_Answer, frozen=True, tag="enabled"):
    """The init runs the daemon from now on."""

    init: str


class NotDone(_Answer, frozen=True, tag="not-done"):
    """It was not done, for these reasons; `code` is the exit code of the command."""

    reasons: tuple[str, ...]
    code: int


Answer: TypeAlias = Written | Enabled | NotDone
