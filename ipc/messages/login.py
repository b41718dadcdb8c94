"""What a login says while it goes on: a line of JSON each, from its process to whoever
shows it to a person. Nothing here decides anything, and no token is ever in it.
"""

import enum
from typing import TypeAlias

import msgspec


class _Said(msgspec.Struct, frozen=True, tag_field="event", rename="camel"):
    """The base of all that is said."""


class CodeGiven(_Said, frozen=True, tag="code"):
    """A person has to open the address, and confirm the code there, in time.

    `verification_uri_complete` has the code in it already; "" where the server gave none.
    """

    verification_uri: str
    verification_uri_complete: str
    user_code: str
    valid_seconds: float


class LoggedIn(_Said, frozen=True, tag="logged-in"):
    """The tokens are kept. `renewable`: a refresh token is among them."""

    token_file: str
    renewable: bool


class Why(enum.StrEnum):
    """Why a login came to nothing, by what helps."""

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
