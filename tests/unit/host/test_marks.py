"""Marks in environments of any size: so many bytes are read, and a mark in them is found."""

from io import BytesIO, FileIO
from typing import cast

import pytest
from geosched.workers.host import procfs
from geosched.workers.host.procfs import (
    ENVIRON_BYTES_MAX,
    INSTANCE_VARIABLE,
    MARK_VARIABLES,
    RUN_ID_VARIABLE,
    Marks,
)
from hypothesis import example, given
from hypothesis import strategies as st

INSTANCE, RUN_ID = b"boot-and-place-and-key", b"0123456789abcdef"
OF_INSTANCE = f"{INSTANCE_VARIABLE}=".encode() + INSTANCE
OF_RUN = f"{RUN_ID_VARIABLE}=".encode() + RUN_ID
FOUND = Marks(INSTANCE.decode(), RUN_ID.decode())


class Environ(BytesIO):
    """A file of `/proc` that counts what is read of it."""

    bytes_read = 0

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self.bytes_read += len(content)
        return content


def marks_of(environ: Environ) -> Marks | None:
    return procfs.marks_in(procfs._beginning(cast(FileIO, environ)))


def is_no_mark(entry: bytes) -> bool:
    return not entry.startswith(tuple(f"{name}=".encode() for name in MARK_VARIABLES))


entries = st.lists(
    st.binary(max_size=60).map(lambda entry: entry.replace(b"\0", b"")).filter(is_no_mark),
    max_size=20,
)


@given(
    first=entries,
    between=entries,
    last=entries,
    padding=st.integers(0, ENVIRON_BYTES_MAX - 5000),
    swapped=st.booleans(),
)
@example(first=[], between=[], last=[], padding=4096 - len(OF_INSTANCE) - 3, swapped=False)
def test_marks_that_end_within_the_bound_are_found_wherever_they_stand(
    first: list[bytes], between: list[bytes], last: list[bytes], padding: int, swapped: bool
) -> None:
    one, two = (OF_RUN, OF_INSTANCE) if swapped else (OF_INSTANCE, OF_RUN)
    whole = [b"A=" + b"x" * padding, *first, one, *between, two, *last, b"Z=" + b"x" * 10**6]
    environ = Environ(b"".join(entry + b"\0" for entry in whole))
    assert marks_of(environ) == FOUND
    assert environ.bytes_read <= ENVIRON_BYTES_MAX


@given(entries, st.integers(0, 10**6))
def test_without_a_mark_no_more_is_read_than_the_bound(found: list[bytes], padding: int) -> None:
    environ = Environ(b"\0".join([b"A=" + b"x" * padding, *found, b"x" * 10**6, OF_INSTANCE, b""]))
    assert marks_of(environ) is None
    assert environ.bytes_read <= ENVIRON_BYTES_MAX


def test_marks_that_stand_first_are_found_by_one_read() -> None:
    environ = Environ(b"\0".join([OF_INSTANCE, OF_RUN, b"A=" + b"x" * 10**6, b""]))
    assert marks_of(environ) == FOUND
    assert environ.bytes_read == 4096


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        (b"", None),
        (OF_INSTANCE, None),  # cut off: it may go on
        (OF_INSTANCE + b"\0", Marks(INSTANCE.decode(), "")),
        (OF_RUN + b"\0", None),
        (b"X" + OF_INSTANCE + b"\0" + OF_RUN + b"\0", None),
        (b"A=" + OF_INSTANCE + b"\0" + OF_RUN + b"\0", None),
        (OF_INSTANCE + b"\0" + OF_INSTANCE + b"2\0" + OF_RUN + b"\0", FOUND),  # as `getenv` does
        (OF_INSTANCE + b"\0" + OF_RUN + b"\0" + OF_RUN + b"2\0", FOUND),
    ],
)
def test_a_mark_is_a_whole_variable_and_the_first_of_its_name(
    environment: bytes, found: Marks | None
) -> None:
    assert procfs.marks_in(environment) == found
