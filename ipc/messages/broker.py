"""Messages between a synchroniser without rights and its file broker, over one SEQPACKET
socketpair.

A file is named by its setting, never by a path. Its descriptor comes with `Opened` (SCM_RIGHTS).
Every request but `Say` has one answer.
"""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from .base import CInt, Message

#: Bounds of what is written into the file of tokens.
TOKENS_BYTES_MAX = 64 * 1024

#: Of a line of the log; a synchroniser cuts it long before that.
SAID_CHARS_MAX = 8192

Level: TypeAlias = Literal["debug", "info", "warning", "error", "critical"]

#: The settings of `[backend]` that name a file.
FileKey: TypeAlias = Literal[
    "path",
    "token_file",
    "oauth_client_secret_file",
    "ca_file",
    "client_cert",
    "client_key",
]


class OpenFile(Message, tag="open-file", frozen=True):
    """Open a file for reading."""

    key: FileKey


class OpenReports(Message, tag="open-reports", frozen=True):
    """Open the file of reports for appending; it is made where it is missing."""


class LockTokens(Message, tag="lock-tokens", frozen=True):
    """Lock the file of tokens, and take room for a new one."""


class ReplaceTokens(Message, tag="replace-tokens", frozen=True):
    """Replace the file of tokens, which is locked."""

    content: Annotated[bytes, Meta(max_length=TOKENS_BYTES_MAX)]


class UnlockTokens(Message, tag="unlock-tokens", frozen=True):
    """Give the lock back."""


class Say(Message, tag="say", frozen=True):
    """Put a record into the log; nothing answers it. `lost` records came before it that the
    socket did not take."""

    level: Level
    message: Annotated[str, Meta(max_length=SAID_CHARS_MAX)]
    event: str
    lost: CInt


FileRequest: TypeAlias = OpenFile | OpenReports | LockTokens | ReplaceTokens | UnlockTokens
ToBroker: TypeAlias = FileRequest | Say


class Opened(Message, tag="opened", frozen=True):
    """The descriptor comes with this message."""


class Done(Message, tag="done", frozen=True):
    """What was asked for is done."""


class Held(Message, tag="held", frozen=True):
    """Another process holds the lock."""


class Refused(Message, tag="refused", frozen=True):
    """The host refused, or the file may not be used. `errno` is 0 where there is none."""

    errno: CInt
    reason: str


FromBroker: TypeAlias = Opened | Done | Held | Refused
