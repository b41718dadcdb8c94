"""Messages of a login under way, from its process to `geosched-ctl login`: a line of JSON
each. No token is ever in them.
"""

import enum
from typing import TypeAlias

import msgspec


class _Said(msgspec.Struct, frozen=True, tag_field="event", rename="camel"):
    """The base of these messages, told apart by field `event`."""


class CodeGiven(_Said, frozen=True, tag="code"):
    """A person has to open the address and confirm the code there within `valid_seconds`.

    `verification_uri_complete` includes the code; "" where the server gave none.
    """

    verification_uri: str
    verification_uri_complete: str
    user_code: str
    valid_seconds: float


class LoggedIn(_Said, frozen=True, tag="logged-in"):
    """The tokens are in `token_file`. `renewable`: a refresh token is among them."""

    token_file: str
    renewable: bool


class Why(enum.StrEnum):
    """The kind of failure of a login, by its remedy."""

    CONFIGURATION = "configuration"
    DENIED = "denied"  # by the person, or the server does not let this client log in
    NOT_CONFIRMED = "not-confirmed"  # the code was not confirmed in time
    FAILED = "failed"


class NotLoggedIn(_Said, frozen=True, tag="not-logged-in"):
    why: Why
    detail: str


Said: TypeAlias = CodeGiven | LoggedIn | NotLoggedIn

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Said).decode
