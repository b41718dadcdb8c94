"""Content codings of bodies: gzip and deflate, unpacked whole and within a bound. Pure.

We ask for none (`Accept-Encoding: identity`), but some servers and proxies compress all the same.
Libraries that unpack piece by piece take a stream that was cut short for a whole one.
"""

import zlib

#: Tells gzip and zlib apart by their headers (`zlib.decompressobj`); a bare deflate stream,
#: which some servers call `deflate`, has none.
_AUTOMATIC_WBITS, _BARE_WBITS = 47, -15


#: Files in a row that one gzip body may be: each costs a copy of what follows it.
MEMBERS_MAX = 100


class CodingError(ValueError):
    """The body is in a coding that we do not know, or does not keep to its own."""


class CutShortError(ValueError):
    """The body ends before its coding does."""


def unpack(body: bytes, coding: str, bytes_max: int, *, is_empty: bool = False) -> bytes:
    """Return the body without its coding: all of it, or one byte more than `bytes_max`.

    `coding` is the value of `Content-Encoding`, "" for none. `is_empty`: the header says so,
    and then there is nothing to be unpacked.
    Raises `CodingError`, `CutShortError`.
    """
    name = coding.strip().lower()
    if "," in name:  # each could make a thousand bytes of one, and the next of each of these
        raise CodingError(f"it has more than one Content-Encoding: {coding[:40]!r}")
    if name not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise CodingError(f"its Content-Encoding is {coding[:20]!r}, and we ask for none")
    if name in ("", "identity") or is_empty:
        return body
    unpacked = b""
    for _ in range(MEMBERS_MAX):
        stream = zlib.decompressobj(_wbits(body))
        try:
            unpacked += stream.decompress(body, bytes_max + 1 - len(unpacked))
        except zlib.error as error:
            raise CodingError(f"its {name} is damaged: {error}") from None
        if len(unpacked) > bytes_max:
            return unpacked
        if not stream.eof:
            raise CutShortError(f"its {name} breaks off")
        body = stream.unused_data.lstrip(b"\0")  # gzip files may follow each other (RFC 1952, 2.2)
        if not body:
            return unpacked
    raise CodingError(f"its {name} is more than {MEMBERS_MAX} files in a row")


def _wbits(body: bytes) -> int:
    headed = body[:2] == b"\x1f\x8b"[: len(body)]
    zlib_headed = len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0
    return _AUTOMATIC_WBITS if headed or zlib_headed else _BARE_WBITS
