"""Seeded mutator of byte strings: one seed makes the same inputs on every host.

Ours and small: most of our decoding is done by C (MessagePack, JSON, zlib), whose branches a
coverage-guided fuzzer for Python does not see. Without samples atheris 3.0.0 never got beyond
the JSON of `parse_entry`; with the same samples it needed 40 s for the branches that 100,000
inputs from here reach in two.
"""

import random
from collections.abc import Callable, Iterator, Sequence

BYTES_MAX = 64 * 1024
#: Changes to one sample: mostly few, so that the rest of it stays valid.
_CHANGES_MAX = 6
_EDGES = b"\0\x01\x7f\x80\xc0\xff\r\n\t \"'\\{}[]:;,=-+.0Z"
_NUMBERS = tuple(
    str(number).encode()
    for number in (
        *(0, -1, 1e308, -1e-308, "1e999", "-0", "0.1", "nan", "inf", "-inf", "1_0", "00", "+1"),
        *(
            sign * (2**bits + more)
            for bits in (7, 8, 31, 32, 53, 63, 64)
            for sign in (1, -1)
            for more in (-1, 0)
        ),
        *("9" * 400, "9" * 5000, "\u0663", "null", "true", "[]", "{}"),
    )
)
_TEXTS = (
    *(b"\\ud800", b"\\udc00\\ud800", b"\\u0000", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\xc3"),
    *(b"\xe2\x80\xae", b"\x1b[2J", b"\xef\xbb\xbf", b"\xff\xfe", b"%s%n", b"../../etc", b"{id}"),
)
#: Nested deeper than any decoder follows, and not.
_NESTS = tuple(
    part * times
    for part in (b"[", b'{"a":', b"\x91", b"\x81\xa1a", b"a=[", b"[[")
    for times in (40, 1200, 9000)
)
_DIGITS = frozenset(b"0123456789")


class Mutator:
    """Makes inputs of `samples`, which are valid, and of `words` that mean something there."""

    def __init__(self, seed: str, samples: Sequence[bytes], words: Sequence[bytes] = ()) -> None:
        self._random = random.Random(seed)
        self._samples = samples
        self._words = (*_NUMBERS, *_TEXTS, *words, *words)
        self._changes: tuple[Callable[[bytearray], None], ...] = (
            *(self._flip, self._flip, self._edge, self._edge, self._word, self._word),
            *(self._number, self._number, self._drop, self._repeat, self._cut, self._swap),
            *(self._splice, self._noise),
        )

    def inputs(self, count: int) -> Iterator[bytes]:
        """Yield so many inputs; the samples themselves are first."""
        yield from self._samples[:count]
        for _ in range(count - len(self._samples)):
            yield self._next()

    def _next(self) -> bytes:
        chance = self._random.random()
        if chance < 0.02:
            return self._random.randbytes(self._random.randrange(300))
        data = bytearray(self._random.choice(self._samples))
        if chance < 0.03:
            at = self._at(data)
            data[at:at] = self._random.choice(_NESTS)
        for _ in range(1 + int(self._random.random() ** 3 * _CHANGES_MAX)):
            self._random.choice(self._changes)(data)
        return bytes(data[:BYTES_MAX])

    def _at(self, data: bytearray) -> int:
        return int(self._random.random() * (len(data) + 1))

    def _part(self, data: bytearray) -> tuple[int, int]:
        """A part that is short more often than long."""
        begin = self._at(data)
        return begin, begin + int(self._random.random() ** 4 * (len(data) - begin)) + 1

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._at(data) - 1] ^= 1 << int(self._random.random() * 8)

    def _edge(self, data: bytearray) -> None:
        at = self._at(data)
        data[at : at + int(self._random.random() * 2)] = bytes((self._random.choice(_EDGES),))

    def _word(self, data: bytearray) -> None:
        begin, end = self._part(data)
        data[begin : begin if self._random.random() < 0.5 else end] = self._random.choice(
            self._words
        )

    def _number(self, data: bytearray) -> None:
        """Put a number in the place of the next one."""
        begin = next((at for at in range(self._at(data), len(data)) if data[at] in _DIGITS), None)
        if begin is None:
            return
        end = next((at for at in range(begin, len(data)) if data[at] not in _DIGITS), len(data))
        data[begin:end] = self._random.choice(_NUMBERS)

    def _drop(self, data: bytearray) -> None:
        begin, end = self._part(data)
        del data[begin:end]

    def _repeat(self, data: bytearray) -> None:
        begin, end = self._part(data)
        times = 1 + int(self._random.random() ** 8 * 500)
        data[begin:begin] = data[begin:end] * min(times, BYTES_MAX // (end - begin))

    def _cut(self, data: bytearray) -> None:
        del data[self._at(data) :]

    def _swap(self, data: bytearray) -> None:
        (a, a_end), (b, b_end) = self._part(data), self._part(data)
        data[a:a_end], data[b:b_end] = data[b:b_end], data[a:a_end]

    def _splice(self, data: bytearray) -> None:
        other = self._random.choice(self._samples)
        begin = int(self._random.random() * (len(other) + 1))
        data[self._at(data) :] = other[begin:]

    def _noise(self, data: bytearray) -> None:
        begin, end = self._part(data)
        data[begin:end] = self._random.randbytes(min(end - begin, 64))
